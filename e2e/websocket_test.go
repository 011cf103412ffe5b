package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// A WebSocket library's client and server, with HTTP/1, HTTP/2 and HTTP/1 again
// between them: the outer host's service is windrose itself, by h2c.
func TestWebSocketByExtendedConnect(t *testing.T) {
	t.Parallel()
	echo := websocket.Server{Handler: func(c *websocket.Conn) {
		for {
			var text string
			if websocket.Message.Receive(c, &text) != nil || websocket.Message.Send(c, "echo "+text) != nil {
				return
			}
		}
	}}
	app := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "a=b")
		echo.ServeHTTP(w, r)
	})
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	self := strings.Replace(service("self", addr), "port: 80,", "port: 80, appProtocol: kubernetes.io/h2c,", 1)
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": all(service("app", app), self),
		"routes.yaml": `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: outer}
spec:
  parentRefs: [{name: web}]
  hostnames: [outer.example]
  rules:
  - matches: [{method: GET}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example}}]
    backendRefs: [{name: self, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: inner}
spec:
  parentRefs: [{name: web}]
  hostnames: [inner.example]
  rules:
  - matches: [{method: GET}]
    backendRefs: [{name: app, port: 80}]
`,
	})
	config, err := websocket.NewConfig("ws://outer.example/chat", "http://outer.example")
	must(t, err)
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	c, err := websocket.NewClient(config, conn)
	must(t, err)
	for i := range 20 {
		sent := strings.Repeat(fmt.Sprint(i), 10_000)
		must(t, websocket.Message.Send(c, sent))
		var got string
		must(t, websocket.Message.Receive(c, &got))
		if got != "echo "+sent {
			t.Fatalf("message %d came back otherwise: %.100q", i, got)
		}
	}
	must(t, c.Close())
	w.eventually("both requests are in the access log", func() error {
		log := strings.Join(w.accessLog(), "\n")
		for _, want := range []string{`"method":"CONNECT"`, `"status":101`, `"protocol":"HTTP/2"`} {
			if !strings.Contains(log, want) {
				return fmt.Errorf("no %s in %s", want, log)
			}
		}
		return nil
	})
}
