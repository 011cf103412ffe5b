// Package v1alpha1 holds the windrose.dev kinds that users write.
//
// +kubebuilder:object:generate=true
// +groupName=windrose.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0 object paths=. crd output:crd:dir=../../deploy/crds

// GroupVersion of the kinds in this package.
const GroupVersion = "windrose.dev/v1alpha1"

// Workload is what stands behind a Service on one machine: a process that
// windrose starts and supervises, or an address where something already
// listens. A Service selects workloads by their labels, as it selects pods.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=".status.conditions[?(@.type=='Ready')].status"
// +kubebuilder:printcolumn:name=Address,type=string,JSONPath=.status.address
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
type Workload struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   WorkloadSpec   `json:"spec"`
	Status WorkloadStatus `json:"status,omitzero"`
}

// WorkloadSpec is what the user wants.
//
// +kubebuilder:validation:XValidation:message="a workload needs an address or a command",rule="has(self.address) || has(self.command)"
type WorkloadSpec struct {
	// Address is the IP address at which the workload listens. It defaults to
	// 127.0.0.1 for a workload with a command.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:message="must be an IP address",rule="isIP(self)"
	Address string `json:"address,omitempty"`

	// Command is the program and its arguments. It is not given to a shell.
	// windrose starts it, restarts it with backoff when it ends, and stops it
	// with SIGTERM.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:XValidation:message="the program must not be empty",rule="self[0] != ''"
	// +kubebuilder:validation:items:MaxLength=65536
	Command []string `json:"command,omitempty"`

	// Env is added to the environment of the command.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1024
	Env []EnvVar `json:"env,omitempty"`

	// WorkingDirectory of the command. A relative path starts at the folder of
	// the manifest.
	//
	// +optional
	WorkingDirectory string `json:"workingDirectory,omitempty"`

	// Ports are the ports at which the workload listens. A Service's targetPort
	// may name one.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Ports []WorkloadPort `json:"ports,omitempty"`

	// Readiness says how windrose finds out whether the workload can take
	// requests. Without it a command is ready when its first port accepts a TCP
	// connection, and an address is always ready.
	//
	// +optional
	Readiness *Probe `json:"readiness,omitempty"`

	// StopTimeoutSeconds is how long the command may take to end after SIGTERM
	// before it is killed.
	//
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	StopTimeoutSeconds *int32 `json:"stopTimeoutSeconds,omitempty"`
}

// EnvVar is one variable of a command's environment.
type EnvVar struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:Pattern=`^[^=\x00]+$`
	Name string `json:"name"`
	// +optional
	Value string `json:"value,omitempty"`
}

// WorkloadPort is a named port.
type WorkloadPort struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// Probe asks a workload whether it is ready.
//
// +kubebuilder:validation:XValidation:message="a probe is either http or tcp",rule="has(self.http) != has(self.tcp)"
type Probe struct {
	// HTTP is ready when GET answers with a status from 200 to 399.
	//
	// +optional
	HTTP *HTTPProbe `json:"http,omitempty"`
	// TCP is ready when a connection is accepted.
	//
	// +optional
	TCP *TCPProbe `json:"tcp,omitempty"`

	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	PeriodSeconds int32 `json:"periodSeconds,omitempty"`
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// FailureThreshold is how many failures in a row make a ready workload
	// unready.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	FailureThreshold int32 `json:"failureThreshold,omitempty"`
}

// HTTPProbe is a GET request.
type HTTPProbe struct {
	// +kubebuilder:default="/"
	// +optional
	Path string `json:"path,omitempty"`
	// Port is a number, or the name of one of the workload's ports.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:message="must be a port from 1 to 65535, or the name of a port",rule="type(self) == int ? self >= 1 && self <= 65535 : self != ''"
	Port intstr.IntOrString `json:"port"`
}

// TCPProbe is a TCP connection.
type TCPProbe struct {
	// Port is a number, or the name of one of the workload's ports.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:message="must be a port from 1 to 65535, or the name of a port",rule="type(self) == int ? self >= 1 && self <= 65535 : self != ''"
	Port intstr.IntOrString `json:"port"`
}

// WorkloadStatus is what windrose knows about a workload.
type WorkloadStatus struct {
	// Conditions: Ready, with the reasons Running, Starting, ProbeFailed,
	// BackOff, Stopped, StartFailed.
	//
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Address at which the workload is reached.
	//
	// +optional
	Address string `json:"address,omitempty"`
	// PID of the process, for a workload with a command.
	//
	// +optional
	PID int32 `json:"pid,omitempty"`
	// Restarts since windrose started it first.
	//
	// +optional
	Restarts int32 `json:"restarts,omitempty"`
}

// WorkloadList is a list of Workload.
//
// +kubebuilder:object:root=true
type WorkloadList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Workload `json:"items"`
}

// GatewayParameters are limits and habits of the gateways of a GatewayClass,
// which names them in spec.parametersRef.
//
// +kubebuilder:object:root=true
type GatewayParameters struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec GatewayParametersSpec `json:"spec"`
}

// GatewayParametersSpec has a documented default for each field.
type GatewayParametersSpec struct {
	// +optional
	AccessLog *AccessLog `json:"accessLog,omitempty"`
	// FaultDetail says how much of the reason for an answer that windrose made
	// itself goes to the client. The access log always has all of it.
	//
	// +optional
	// +kubebuilder:default=Full
	// +kubebuilder:validation:Enum=Full;Brief
	FaultDetail string `json:"faultDetail,omitempty"`
	// TrustedProxies are the networks whose X-Forwarded-* headers are kept. The
	// headers of everybody else are replaced.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:XValidation:message="must be IP addresses or networks as 10.0.0.0/8",rule="self.all(n, isIP(n) || isCIDR(n))"
	TrustedProxies []string `json:"trustedProxies,omitempty"`
	// HTTP3 Enabled serves HTTPS listeners over QUIC too, at the UDP port of the same
	// number, and says so to clients (Alt-Svc).
	//
	// +optional
	// +kubebuilder:default=Disabled
	// +kubebuilder:validation:Enum=Enabled;Disabled
	HTTP3 string `json:"http3,omitempty"`
	// +optional
	Limits *Limits `json:"limits,omitempty"`
	// +optional
	Timeouts *Timeouts `json:"timeouts,omitempty"`
	// Tracing has the requests of all listeners traced. An XTelemetryPolicy that
	// targets a Gateway goes before it, but for errors and propagation, of which it
	// says nothing.
	//
	// +optional
	Tracing *Tracing `json:"tracing,omitempty"`
	// Ingress says where Ingresses are served. It is read of the parameters that an
	// IngressClass names in spec.parameters, and nothing else of them is.
	//
	// +optional
	Ingress *IngressPorts `json:"ingress,omitempty"`
}

// IngressPorts are where the Ingresses of all classes of windrose are served.
type IngressPorts struct {
	// Address to listen at. Default: all addresses.
	//
	// +optional
	Address string `json:"address,omitempty"`
	// HTTP is the port for cleartext. Default 80.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HTTP int32 `json:"http,omitempty"`
	// HTTPS is the port for TLS. Default 443.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HTTPS int32 `json:"https,omitempty"`
}

// AccessLog says which requests are logged.
type AccessLog struct {
	// Mode All logs every request, Sampled one in Every and all faults, None none.
	//
	// +kubebuilder:default=All
	// +kubebuilder:validation:Enum=All;Sampled;None
	// +optional
	Mode string `json:"mode,omitempty"`
	// Every logs one request in so many, for mode Sampled. Faults are always
	// logged.
	//
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +optional
	Every int32 `json:"every,omitempty"`
}

// Tracing says where spans go, and of which requests.
//
// +kubebuilder:validation:XValidation:message="name the collector by url or by backendRef, not by both",rule="!(has(self.url) && has(self.backendRef))"
type Tracing struct {
	// URL of the collector: http or https, a host with or without port, and a path
	// unless it is the protocol's own. For https the machine's certificate
	// authorities are believed. Without url and backendRef nothing is traced here;
	// errors and propagation are then for XTelemetryPolicies.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url,omitempty"`
	// BackendRef names the collector as a Service. A BackendTLSPolicy for it has TLS
	// spoken.
	//
	// +optional
	BackendRef *TracingBackend `json:"backendRef,omitempty"`
	// Protocol that the collector speaks: OTLP over gRPC, OTLP over HTTP (protobuf),
	// or Zipkin's JSON, version 2.
	//
	// +optional
	// +kubebuilder:default=OTLPGRPC
	// +kubebuilder:validation:Enum=OTLPGRPC;OTLPHTTP;Zipkin
	Protocol string `json:"protocol,omitempty"`
	// Sampling is the share of the traces that begin here which is exported.
	// Default: all.
	//
	// +optional
	Sampling *Fraction `json:"sampling,omitempty"`
	// Parents says whose word counts about requests that already have a trace.
	// Trusted: that of trustedProxies; the trace headers of others are dropped, and
	// a trace begins. All: that of anybody, who can then have any request exported.
	// Ignored: traces of all go on, and sampling decides.
	//
	// +optional
	// +kubebuilder:default=Trusted
	// +kubebuilder:validation:Enum=Trusted;All;Ignored
	Parents string `json:"parents,omitempty"`
	// Errors says what becomes of requests that were not sampled and end in a fault
	// that is not the client's own, or a status of 500 and above. Exported: windrose's own spans of them are
	// exported; endpoints were told that nobody samples, so that theirs are missing.
	// Sampled: they are as all others. Default: Exported, but for a policy whose
	// samplingRate is 0.
	//
	// +optional
	// +kubebuilder:validation:Enum=Exported;Sampled
	Errors string `json:"errors,omitempty"`
	// Propagation lists how endpoints are told the trace beside W3C's traceparent,
	// which they always are: B3 in one header, B3Multi in several. A request that
	// brought B3 goes on with it anyway.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=B3;B3Multi
	Propagation []string `json:"propagation,omitempty"`
	// ServiceName is what windrose is called in traces. Default: windrose.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ServiceName string `json:"serviceName,omitempty"`
}

// TracingBackend is a port of a Service.
type TracingBackend struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Namespace of the Service. Default: that of the parameters. For another, a
	// ReferenceGrant there must let GatewayParameters of group windrose.dev refer to
	// it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// Fraction is a share.
//
// +kubebuilder:validation:XValidation:message="numerator must not be above denominator",rule="self.numerator <= (has(self.denominator) ? self.denominator : 100)"
type Fraction struct {
	// +kubebuilder:validation:Minimum=0
	Numerator int32 `json:"numerator"`
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	Denominator int32 `json:"denominator,omitempty"`
}

// Limits of a gateway.
type Limits struct {
	// HeaderBytes of a request: request line and headers together. Default 65536.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=1048576
	HeaderBytes int32 `json:"headerBytes,omitempty"`
	// URIBytes of a request target. Default 16384.
	//
	// +optional
	// +kubebuilder:validation:Minimum=256
	// +kubebuilder:validation:Maximum=1048576
	URIBytes int32 `json:"uriBytes,omitempty"`
	// Headers is the number of header fields. Default 128.
	//
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=4096
	Headers int32 `json:"headers,omitempty"`
	// Connections from clients. Default 100000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	Connections int32 `json:"connections,omitempty"`
	// BufferedBytes of what a client sends that are held before somebody takes
	// them: requests that it pipelines, and the beginning of a body that is kept
	// so that the request can be given to another endpoint. Default 65536.
	//
	// +optional
	// +kubebuilder:validation:Minimum=16384
	// +kubebuilder:validation:Maximum=1048576
	BufferedBytes int32 `json:"bufferedBytes,omitempty"`
	// InFlight is how many requests, connections or flows one endpoint may have at
	// the same time. Default 10000.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	InFlight int32 `json:"inFlight,omitempty"`
	// UpstreamIdle connections kept for reuse to one endpoint by one event loop.
	// Default 256.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	UpstreamIdle *int32 `json:"upstreamIdle,omitempty"`
}

// Timeouts of a gateway.
type Timeouts struct {
	// Header is from the first byte of a request to the end of its headers.
	// Default 10s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Header *metav1.Duration `json:"header,omitempty"`
	// Idle is how long a client's connection is kept between requests. Default 75s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Idle *metav1.Duration `json:"idle,omitempty"`
	// Body is the longest silence inside a message. Default 60s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Body *metav1.Duration `json:"body,omitempty"`
	// Flow is the longest silence of a UDP flow. Default 30s.
	//
	// +optional
	Flow *metav1.Duration `json:"flow,omitempty"`
	// Tunnel is the longest silence of an upgraded connection. Default 1h.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Tunnel *metav1.Duration `json:"tunnel,omitempty"`
	// Auth is how long an authoriser has for its answer, connecting included.
	// Default 10s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Auth *metav1.Duration `json:"auth,omitempty"`
	// Handshake of TLS. Default 10s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Handshake *metav1.Duration `json:"handshake,omitempty"`
	// Drain is how long requests in flight may take when a listener or windrose
	// goes away. Default 30s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Drain *metav1.Duration `json:"drain,omitempty"`
	// Connect to an endpoint. Default 5s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	Connect *metav1.Duration `json:"connect,omitempty"`
	// UpstreamIdle is how long an unused connection to an endpoint is kept.
	// Default 30s.
	//
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	UpstreamIdle *metav1.Duration `json:"upstreamIdle,omitempty"`
}

// GatewayParametersList is a list of GatewayParameters.
//
// +kubebuilder:object:root=true
type GatewayParametersList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GatewayParameters `json:"items"`
}
