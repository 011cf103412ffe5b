package extauthz_test

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"windrose.dev/windrose/internal/extauthz"
)

func TestPathIsThatOfTheService(t *testing.T) {
	if extauthz.Path != authv3.Authorization_Check_FullMethodName {
		t.Errorf("got %s, want %s", extauthz.Path, authv3.Authorization_Check_FullMethodName)
	}
}

func peerAt(ip string, port uint32) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}}
}

// What is written is read by the protocol's own types as it was meant.
func TestRequest(t *testing.T) {
	now := time.Unix(1_700_000_000, 5)
	for name, c := range map[string]struct {
		in   extauthz.Request
		http *authv3.AttributeContext_HttpRequest
		sni  string
	}{
		"a GET": {
			in: extauthz.Request{
				ID: []byte("id"), Method: []byte("GET"), Path: []byte("/a?b=c"), Host: []byte("x.example"), Scheme: "https", Protocol: "HTTP/2",
				ServerName: "x.example", Headers: []extauthz.Header{{Name: []byte("cookie"), Value: []byte("a=b")}, {Name: []byte("empty")}},
			},
			http: &authv3.AttributeContext_HttpRequest{
				Id: "id", Method: "GET", Path: "/a?b=c", Host: "x.example", Scheme: "https", Protocol: "HTTP/2",
				Headers: map[string]string{"cookie": "a=b", "empty": ""},
			},
			sni: "x.example",
		},
		"a body of text, of unknown size": {
			in:   extauthz.Request{Method: []byte("PUT"), Size: -1, Body: []byte("grüße")},
			http: &authv3.AttributeContext_HttpRequest{Method: "PUT", Size: -1, Body: "grüße"},
		},
		"bytes that are no UTF-8": {
			in:   extauthz.Request{Path: []byte("/\xff"), Size: 300, Body: []byte("\xff\x00"), Headers: []extauthz.Header{{Name: []byte("a"), Value: []byte("x\xe4y")}}},
			http: &authv3.AttributeContext_HttpRequest{Path: "/!", Size: 300, RawBody: []byte("\xff\x00"), Headers: map[string]string{"a": "x!y"}},
		},
		"a body that needs a long length": {
			in:   extauthz.Request{Body: make([]byte, 20_000)},
			http: &authv3.AttributeContext_HttpRequest{Body: string(make([]byte, 20_000))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.Time = now
			c.in.Source, c.in.Destination = netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("[::1]:80")
			want := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				Source: peerAt("192.0.2.1", 1234), Destination: peerAt("::1", 80),
				Request: &authv3.AttributeContext_Request{Time: timestamppb.New(now), Http: c.http},
			}}
			if c.sni != "" {
				want.Attributes.TlsSession = &authv3.AttributeContext_TLSSession{Sni: c.sni}
			}
			got := &authv3.CheckRequest{}
			if err := proto.Unmarshal(c.in.Append([]byte("before"))[len("before"):], got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, want) {
				t.Errorf("got %s\nwant %s", protojson.Format(got), protojson.Format(want))
			}
		})
	}
}

func option(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func edits(list ...extauthz.Edit) []extauthz.Edit { return list }

func edit(name, value string, a extauthz.Action) extauthz.Edit {
	return extauthz.Edit{Name: []byte(name), Value: []byte(value), Action: a}
}

// What the protocol's own types write is read as it was meant.
func TestParse(t *testing.T) {
	appended, replaced := option("a", "1"), option("a", "1")
	appended.Append, replaced.Append = wrapperspb.Bool(true), wrapperspb.Bool(false) //nolint:staticcheck // it is what most servers set
	absent, there := option("b", "2"), option("c", "3")
	absent.AppendAction, there.AppendAction = corev3.HeaderValueOption_ADD_IF_ABSENT, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
	raw := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: "raw", RawValue: []byte("\xff")}}
	for name, c := range map[string]struct {
		in   *authv3.CheckResponse
		want extauthz.Answer
	}{
		"yes": {in: &authv3.CheckResponse{Status: &status.Status{}}, want: extauthz.Answer{Allowed: true}},
		"yes without a status": {
			in:   &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}},
			want: extauthz.Answer{Allowed: true},
		},
		"yes with all": {
			in: &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
				Headers: []*corev3.HeaderValueOption{option("x", "y"), appended, replaced, absent, there, raw}, HeadersToRemove: []string{"cookie"},
				ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("set-cookie", "z")},
			}}},
			want: extauthz.Answer{
				Allowed: true, Remove: [][]byte{[]byte("cookie")}, Response: edits(edit("set-cookie", "z", extauthz.Set)),
				Request: edits(edit("x", "y", extauthz.Set), edit("a", "1", extauthz.Add), edit("a", "1", extauthz.Set),
					edit("b", "2", extauthz.SetIfAbsent), edit("c", "3", extauthz.SetIfThere), edit("raw", "\xff", extauthz.Set)),
			},
		},
		"a query to change": {
			in: &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
				QueryParametersToSet: []*corev3.QueryParameter{{Key: "a"}, {Key: "b", Value: "1"}}, QueryParametersToRemove: []string{"c"},
			}}},
			want: extauthz.Answer{
				Allowed: true, QuerySet: []extauthz.Parameter{{Name: []byte("a")}, {Name: []byte("b"), Value: []byte("1")}}, QueryRemove: [][]byte{[]byte("c")},
			},
		},
		"no": {in: &authv3.CheckResponse{Status: &status.Status{Code: 7, Message: "why"}}, want: extauthz.Answer{Message: []byte("why")}},
		"no with all": {
			in: &authv3.CheckResponse{Status: &status.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: 401}, Headers: []*corev3.HeaderValueOption{option("www-authenticate", "Basic")}, Body: "who?",
			}}},
			want: extauthz.Answer{Status: 401, Body: []byte("who?"), Deny: edits(edit("www-authenticate", "Basic", extauthz.Set))},
		},
		"no beside a status of yes": {
			in: &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := proto.Marshal(c.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := extauthz.Parse(b)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

// What is no answer is never a yes.
func TestParseRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":                       "",
		"an unknown field alone":        "\x78\x01",
		"a tag that does not end":       "\x80",
		"a number that is too long":     "\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
		"field 0":                       "\x00\x01",
		"a length beyond the end":       "\x0a\x02\x08",
		"a huge length":                 "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"a group":                       "\x0b\x0c",
		"a fixed value that is cut off": "\x0a\x00\x7d\x01",
		"a status that is a number":     "\x08\x00",
		"a code that is a text":         "\x0a\x02\x0a\x00",
		"an ok_response that is broken": "\x0a\x00\x1a\x01\x80",
	} {
		if a, err := extauthz.Parse([]byte(b)); err == nil {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []*authv3.CheckResponse{
		{Status: &status.Status{Code: 7, Message: "why"}},
		{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x", "y")}, HeadersToRemove: []string{"z"}}}},
		{HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Body: "no"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := extauthz.Parse(b)
		var m authv3.CheckResponse
		if proto.Unmarshal(b, &m) != nil {
			return // ours does not look at all that theirs refuses, as UTF-8
		}
		if err == nil && a.Allowed && (m.GetStatus().GetCode() != 0 || m.GetDeniedResponse() != nil) {
			t.Errorf("a yes of %s", protojson.Format(&m))
		}
	})
}
