// Package plan is the compiled picture of all traffic: which listener, route
// and rule a request belongs to, what its filters do, and which services stand
// behind it.
//
// Parts (part.go) are plain data that cross the plan stream. A Builder takes
// changes of parts and gives an immutable Plan, sharing with the one before
// everything that did not change; a request loads one Plan and uses it to its
// end. The same code answers "where would this request land" in the data
// plane, in the command line's explain and diff, and in translation's tests.
//
// The package is pure: no network, files, log or clock.
package plan
