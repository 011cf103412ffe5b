// Package e2e tests the whole program: the binary, real files, real sockets,
// real backends, and the clients that people use. Nothing here is linked into
// windrose.
package e2e
