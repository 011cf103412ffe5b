package session

var Read = read
