package translate_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

var update = flag.Bool("update", false, "rewrite the want section of the cases")

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestCases runs testdata/*.txtar. A case holds objects (*.yaml), requests, and
// want: where the requests land, what authors are told, and the conditions.
//
// A request is "PORT METHOD HOST/PATH [name:value...]", or "PORT TLS HOST" for
// the certificate that a client gets. The method GRPC is a POST of gRPC. "PORT
// SNI HOST" is a connection with a server name, "PORT TCP" one without, and
// "PORT UDP" a datagram. A port stands for [::]:PORT. "SERVICE
// NAMESPACE/NAME:PORT" asks what stands behind a Service, and "LISTENER KEY" which
// certificates a listener asks for and shows to backends. "TRACING KEY" asks what a
// listener traces by.
//
// The section carried names the fields of translate.Carried that are true;
// without it none is.
//
// Every case has the objects of testdata/base.yaml besides its own: the class
// windrose and the Services v1, v2 and v3 on port 8080. Their statuses are left
// out of want.
func TestCases(t *testing.T) {
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { runCase(t, base, file) })
	}
}

func runCase(t *testing.T, base []byte, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	objects, env := decode(t, base), testEnv()
	own := map[object.Key]bool{}
	var requests, want string
	wantAt := -1
	for i, f := range archive.Files {
		switch {
		case strings.HasSuffix(f.Name, ".yaml"):
			for _, o := range decode(t, f.Data) {
				objects = append(objects, o)
				own[object.KeyOf(o)] = true
			}
		case f.Name == "requests":
			requests = string(f.Data)
		case f.Name == "carried":
			env.Carried = carried(t, strings.Fields(string(f.Data)))
		case f.Name == "want":
			want, wantAt = string(f.Data), i
		default:
			t.Fatalf("a case has no section %s", f.Name)
		}
	}
	result := translate.New(env).Plan((&object.Set{}).With(objects, nil))
	got := land(t, result, requests) + tell(result) + conditions(result, own)
	if got == want {
		return
	}
	if !*update {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
		return
	}
	if wantAt < 0 {
		archive.Files = append(archive.Files, txtar.File{Name: "want"})
		wantAt = len(archive.Files) - 1
	}
	archive.Files[wantAt].Data = []byte(got)
	if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// carried sets fields by name.
func carried(tb testing.TB, names []string) *translate.Carried {
	tb.Helper()
	c := &translate.Carried{}
	for _, name := range names {
		f := reflect.ValueOf(c).Elem().FieldByName(name)
		if !f.IsValid() {
			tb.Fatalf("translate.Carried has no field %s", name)
		}
		f.SetBool(true)
	}
	return c
}

// everything is a data plane that carries all there is.
func everything(tb testing.TB) *translate.Carried {
	var names []string
	for f := range reflect.TypeFor[translate.Carried]().Fields() {
		names = append(names, f.Name)
	}
	return carried(tb, names)
}

func testEnv() translate.Env {
	return translate.Env{
		Carried:   &translate.Carried{},
		Addresses: []string{"192.0.2.1"},
		Now:       func() time.Time { return now },
		Placeholder: func(names []string) (chain, key []byte, err error) {
			return []byte("chain of " + strings.Join(names, ",")), []byte("key"), nil
		},
	}
}

// decode reads the objects of a file. Objects get generation 1 and, if they say
// none, a time of creation.
func decode(tb testing.TB, data []byte) []metav1.Object {
	tb.Helper()
	var all []metav1.Object
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &head); err != nil {
			tb.Fatalf("%v in:\n%s", err, doc)
		}
		kind, ok := object.KindNamed(head.Kind)
		if !ok {
			tb.Fatalf("a case cannot hold kind %q", head.Kind)
		}
		o := kind.New()
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			tb.Fatalf("%v in:\n%s", err, doc)
		}
		if o.GetGeneration() == 0 {
			o.SetGeneration(1)
		}
		if o.GetCreationTimestamp().Time.IsZero() {
			o.SetCreationTimestamp(metav1.NewTime(now.Add(-time.Hour)))
		}
		if o.GetNamespace() == "" && !kind.Cluster {
			o.SetNamespace("default")
		}
		switch o := o.(type) {
		case *corev1.Secret:
			fillSecret(tb, o)
		case *certificatesv1.ClusterTrustBundle:
			if strings.TrimSpace(o.Spec.TrustBundle) == "CA" {
				chain, _ := makePair(tb, []string{"ca.example"}, "", time.Hour)
				o.Spec.TrustBundle = string(chain)
			}
		case *corev1.ConfigMap:
			if strings.TrimSpace(o.Data["ca.crt"]) == "CA" {
				chain, _ := makePair(tb, []string{"ca.example"}, "", time.Hour)
				o.Data["ca.crt"] = string(chain)
			}
		}
		all = append(all, o)
	}
	return all
}

// land says where each request of a case lands.
func land(t *testing.T, r *translate.Result, requests string) string {
	t.Helper()
	p, problems := plan.NewBuilder().Apply(parts(r), nil)
	var b strings.Builder
	for _, problem := range problems {
		if problem.Reason == plan.PartInvalid && strings.Contains(problem.Message, "PEM") {
			continue // placeholders of tests hold no certificate
		}
		fmt.Fprintf(&b, "PLAN PROBLEM %s %s: %s\n", problem.Key, problem.Reason, problem.Message)
	}
	for line := range strings.Lines(requests) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if words[0] == "SERVICE" {
			fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), behind(r, words[1]))
			continue
		}
		if words[0] == "TRACING" {
			fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), traced(r, words[1]))
			continue
		}
		if words[0] == "LISTENER" {
			fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), secured(r, words[1]))
			continue
		}
		socket := socketOf(words)
		switch words[1] {
		case "TLS":
			fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), certificateName(r, p.Bound(socket), words[2]))
			continue
		case "SNI", "TCP", "UDP":
			fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), landStream(p, socket, strings.Join(words[2:], "")))
			continue
		case "GRPC":
			words[1] = "POST"
			words = append(words, "content-type:application/grpc+proto")
		}
		host, path, _ := strings.Cut(words[2], "/")
		path, query, _ := strings.Cut("/"+path, "?")
		probe := plan.Probe{Socket: socket, Method: words[1], Host: host, Path: path, Query: query}
		for _, h := range words[3:] {
			name, value, _ := strings.Cut(h, ":")
			probe.Headers = append(probe.Headers, plan.Header{Name: name, Value: value})
		}
		fmt.Fprintf(&b, "%s -> %s\n", strings.Join(words, " "), p.Land(probe))
	}
	return b.String()
}

func socketOf(words []string) string {
	network := "tcp/"
	if words[1] == "UDP" {
		network = "udp/"
	}
	if strings.Contains(words[0], ":") {
		return network + words[0]
	}
	return network + "[::]:" + words[0]
}

// landStream says where a connection or a flow lands, and who ends TLS.
func landStream(p *plan.Plan, socket, serverName string) string {
	bound := p.Bound(socket)
	if bound == nil {
		return "no socket " + socket
	}
	l := bound.Listener([]byte(serverName))
	if l == nil {
		return "no listener"
	}
	what := string(l.Protocol)
	if l.Passthrough {
		what = "passthrough"
	}
	if _, ok := l.Stream(p, []byte(serverName)); !ok {
		return what + " no route"
	}
	return what + " " + p.Land(plan.Probe{Socket: socket, Host: serverName, Path: "/"})
}

// behind gives what stands behind a port of a Service.
func behind(r *translate.Result, name string) string {
	for _, p := range r.Parts {
		if p.Service == nil || p.Key.Name != name {
			continue
		}
		words := []string{}
		if p.Service.Protocol != plan.HTTP {
			words = append(words, string(p.Service.Protocol))
		}
		if p.Service.Hostname != "" {
			words = append(words, fmt.Sprintf("%s:%d", p.Service.Hostname, p.Service.Port))
		}
		for _, e := range p.Service.Endpoints {
			words = append(words, strings.TrimSuffix(fmt.Sprintf("%s=%s", e.Addr, e.Name), "="))
		}
		if b := p.Service.TLS; b != nil {
			words = append(words, fmt.Sprintf("tls=%s system=%v authorities=%d %v", b.Hostname, b.System, bytes.Count(b.Authorities, []byte("BEGIN CERTIFICATE")), b.Names))
		}
		for _, e := range p.Service.Draining {
			words = append(words, fmt.Sprintf("draining=%s", e.Addr))
		}
		if b := p.Service.Budget; b != nil {
			words = append(words, fmt.Sprintf("retries=%d%%/%v+%d/%v", b.Percent, b.Interval, b.Free, b.FreeInterval))
		}
		if p.Service.Session != nil {
			words = append(words, "session by "+p.Service.Session.String())
		}
		if b := p.Service.TLS; b != nil && b.Client != nil {
			words = append(words, fmt.Sprintf("shows=%d", bytes.Count(b.Client.Chain, []byte("BEGIN CERTIFICATE"))))
		}
		if p.Service.Balance != "" {
			words = append(words, string(p.Service.Balance))
		}
		return strings.Join(words, " ")
	}
	return "no part"
}

// secured says which certificates a listener asks for and shows.
func secured(r *translate.Result, name string) string {
	for _, p := range r.Parts {
		if p.Listener == nil || p.Key.Name != name {
			continue
		}
		asks := "nobody"
		if c := p.Listener.Clients; c != nil {
			asks = fmt.Sprintf("authorities=%d optional=%v", bytes.Count(c.Authorities, []byte("BEGIN CERTIFICATE")), c.Optional)
		}
		return fmt.Sprintf("asks %s, shows %q", asks, p.Listener.Shows)
	}
	return "no part"
}

func traced(r *translate.Result, name string) string {
	var by string
	for _, p := range r.Parts {
		if p.Listener != nil && p.Key.Name == name {
			by = p.Listener.Tracing
		}
	}
	if by == "" {
		return "nothing"
	}
	for _, p := range r.Parts {
		if p.Tracing != nil && p.Key.Name == by {
			text, err := json.Marshal(p.Tracing)
			if err != nil {
				panic(err) // plain data
			}
			return by + " " + strings.ReplaceAll(string(text), `"`, "")
		}
	}
	return by + ", which does not exist"
}

func parts(r *translate.Result) []plan.Part {
	all := make([]plan.Part, len(r.Parts))
	for i, p := range r.Parts {
		all[i] = *p
	}
	return all
}

func certificateName(r *translate.Result, bound *plan.Bound, sni string) string {
	if bound == nil {
		return "no socket"
	}
	c := bound.Certificate(sni, true)
	for _, p := range r.Parts {
		if p.Certificate != nil && c != nil && bytes.Equal(p.Certificate.Chain, c.Chain) {
			return p.Key.Name
		}
	}
	return "no certificate"
}

// tell gives the findings of a case.
func tell(r *translate.Result) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s", f.Severity, f.Object)
		if f.Field != "" {
			fmt.Fprintf(&b, " %s", f.Field)
		}
		fmt.Fprintf(&b, ": %s: %s", f.Reason, f.Message)
		if f.Mend != "" {
			mend, manifest, _ := strings.Cut(f.Mend, "\n")
			if manifest != "" {
				mend += " ..." // what to paste is TestGrantMend's
			}
			fmt.Fprintf(&b, " (%s)", mend)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// conditions gives the statuses of a case's own objects.
func conditions(r *translate.Result, own map[object.Key]bool) string {
	var b strings.Builder
	for _, s := range r.Statuses {
		if !own[s.Object] {
			continue
		}
		switch {
		case s.GatewayClass != nil:
			fmt.Fprintf(&b, "%s:%s\n", s.Object, short(s.GatewayClass.Conditions))
		case s.Gateway != nil:
			var addrs []string
			for _, a := range s.Gateway.Addresses {
				addrs = append(addrs, a.Value)
				if a.Routability == nil || *a.Routability != "" {
					addrs[len(addrs)-1] += fmt.Sprintf("(%s)", *a.Routability)
				}
			}
			fmt.Fprintf(&b, "%s:%s addresses=%s sets=%d\n", s.Object, short(s.Gateway.Conditions), strings.Join(addrs, ","), *s.Gateway.AttachedListenerSets)
			for i, l := range s.Gateway.Listeners {
				fmt.Fprintf(&b, "  %s: kinds=%s routes=%d%s %s\n", l.Name, kinds(l.SupportedKinds), l.AttachedRoutes, short(l.Conditions), strings.Join(s.Sockets[i], ","))
			}
		case s.ListenerSet != nil:
			fmt.Fprintf(&b, "%s:%s\n", s.Object, short(s.ListenerSet.Conditions))
			for i, l := range s.ListenerSet.Listeners {
				fmt.Fprintf(&b, "  %s: kinds=%s routes=%d%s %s\n", l.Name, kinds(l.SupportedKinds), l.AttachedRoutes, short(l.Conditions), strings.Join(s.Sockets[i], ","))
			}
		case s.Route != nil:
			fmt.Fprintf(&b, "%s:\n", s.Object)
			for _, p := range s.Route.Parents {
				section := ""
				if p.ParentRef.SectionName != nil {
					section = "#" + string(*p.ParentRef.SectionName)
				}
				fmt.Fprintf(&b, "  %s%s:%s\n", p.ParentRef.Name, section, short(p.Conditions))
			}
		case s.Policy != nil:
			fmt.Fprintf(&b, "%s:\n", s.Object)
			for _, a := range s.Policy.Ancestors {
				fmt.Fprintf(&b, "  %s:%s\n", a.AncestorRef.Name, short(a.Conditions))
			}
		case s.Backend != nil:
			fmt.Fprintf(&b, "%s:\n", s.Object)
			for _, a := range s.Backend.Ancestors {
				fmt.Fprintf(&b, "  %s:%s\n", a.AncestorRef.Name, short(a.Conditions))
			}
		case s.Mesh != nil:
			fmt.Fprintf(&b, "%s:%s features=%d\n", s.Object, short(s.Mesh.Conditions), len(s.Mesh.SupportedFeatures))
		case s.Ingress != nil:
			var addrs []string
			for _, i := range s.Ingress.LoadBalancer.Ingress {
				addrs = append(addrs, i.IP)
			}
			fmt.Fprintf(&b, "%s: addresses=%s\n", s.Object, strings.Join(addrs, ","))
		}
	}
	return b.String()
}

// short gives conditions as Type=Status, with the reason where it says more.
// The message is that of a finding, or of no interest.
func short(list []metav1.Condition) string {
	var b strings.Builder
	for _, c := range list {
		if c.Type == string(gatewayv1.GatewayConditionAddressesAssigned) && c.Status == metav1.ConditionTrue {
			continue // every Gateway that is accepted has it
		}
		fmt.Fprintf(&b, " %s=%s", c.Type, c.Status)
		if c.Reason != c.Type && c.Reason != "NoConflicts" {
			fmt.Fprintf(&b, "/%s", c.Reason)
		}
		if c.ObservedGeneration != 1 {
			fmt.Fprintf(&b, "@%d", c.ObservedGeneration)
		}
		if !c.LastTransitionTime.IsZero() {
			b.WriteString(" (has a time)")
		}
	}
	return b.String()
}

func kinds(list []gatewayv1.RouteGroupKind) string {
	names := []string{}
	for _, k := range list {
		names = append(names, string(k.Kind))
	}
	return "[" + strings.Join(names, ",") + "]"
}

// What a Secret of a case says about the certificate it is filled with.
const (
	certNames   = "test/names"   // DNS names, by comma
	certKey     = "test/key"     // ecdsa (default), rsa, or other: the key of another certificate
	certExpires = "test/expires" // duration from now
)

func fillSecret(tb testing.TB, s *corev1.Secret) {
	tb.Helper()
	names, ok := s.Annotations[certNames]
	if !ok {
		return
	}
	life := 90 * 24 * time.Hour
	if text := s.Annotations[certExpires]; text != "" {
		var err error
		if life, err = time.ParseDuration(text); err != nil {
			tb.Fatal(err)
		}
	}
	chain, key := makePair(tb, strings.Split(names, ","), s.Annotations[certKey], life)
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for name, data := range map[string][]byte{"tls.crt": chain, "tls.key": key} {
		if _, there := s.Data[name]; !there {
			s.Data[name] = data
		}
	}
}

var testKey = sync.OnceValues(func() (*ecdsa.PrivateKey, *rsa.PrivateKey) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return ec, rs
})

func makePair(tb testing.TB, names []string, kind string, life time.Duration) (chain, key []byte) {
	tb.Helper()
	ec, rs := testKey()
	var signer crypto.Signer = ec
	if kind == "rsa" {
		signer = rs
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: now.Add(-24 * time.Hour * 365), NotAfter: now.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	if kind == "other" {
		signer = rs
	}
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
