package main

import (
	"bytes"
	"fmt"

	"windrose.dev/windrose/internal/record"
)

func faults(b *bytes.Buffer) {
	b.WriteString(`# Faults

An answer that windrose makes itself, because it could not serve a request, carries the fault's flag in ` + "`x-windrose-fault`" + ` and
the request's id in ` + "`x-request-id`" + `. Its body is plain text: the flag, a sentence that names the object that decided, and
the id (` + "`faultDetail: Brief`" + ` of [GatewayParameters](gatewayparameters.md) leaves the sentence out). The access log has all of it under ` + "`fault`, `side`, `reason` and `mend`" + `,
and the metric ` + "`windrose_faults_total`" + ` counts by flag and side.

The side says where to look: *client*, who sent the request; *config*, an object that somebody wrote; *upstream*, the
service behind; *windrose*, one of its limits or its own mistake. An answer without the header is the service's own.

| flag | status | side | what to do |
|---|---|---|---|
`)
	for _, f := range record.Flags() {
		status := fmt.Sprint(f.Status())
		if f == record.ClientGone {
			status = "499, in the log only"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f, status, f.Side(), f.Mend())
	}
}
