package proxy

// h2client is the HTTP/2 side of a client's connection.
type h2client struct{}
