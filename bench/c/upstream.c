// upstream: the service behind the proxies of the bench. One thread, epoll,
// kept connections. It does so little that one core of it outruns every proxy.
//
//   upstream PORT GRPCPORT
//
// On PORT it speaks HTTP/1, and HTTP/2 with prior knowledge to whoever begins
// with its preface. Every request gets the same 1 KiB answer, or as many bytes as
// a path that ends in /bytes/N asks for (HTTP/1 only). A request to upgrade gets
// its 101; from then on what comes is sent back. On GRPCPORT it answers every
// HTTP/2 request as a gRPC service does whose call went well.
//
// HTTP/2 here reads no field of a request: all get one answer. What it must
// keep to is what the peer lets it send.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUF = 64 << 10, BODY = 1024, LARGEST = 1 << 20, WAITING = 4096 };
enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

enum mode { HTTP1, ECHO, HTTP2 };

struct conn {
	int fd, grpc;
	enum mode mode;
	size_t have;
	char buf[BUF];

	char *out; // what the socket did not take, or what a turn gathers
	size_t out_len, out_cap;
	int64_t zeros; // bytes of the body after out

	int64_t window;              // HTTP/2: what the peer lets the connection send
	uint32_t waiting[WAITING];   // streams whose answer the window did not take
	unsigned wait_head, wait_len;
	int64_t received;            // bytes of bodies not given back yet
};

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static char body[LARGEST];

// The fields of an answer in HTTP/2, of a plain one and of a gRPC call.
static struct head {
	unsigned char bytes[512];
	size_t len;
} plain_head, grpc_head;

static int reserve(struct conn *c, size_t n) {
	if (c->out_len + n <= c->out_cap) return 1;
	size_t cap = (c->out_len + n) * 2;
	char *p = cap > 16 << 20 ? NULL : realloc(c->out, cap);
	if (!p) return 0;
	c->out = p;
	c->out_cap = cap;
	return 1;
}

static int add(struct conn *c, const void *p, size_t n) {
	if (!reserve(c, n)) return 0;
	memcpy(c->out + c->out_len, p, n);
	c->out_len += n;
	return 1;
}

// flush writes what it can; false: close.
static int flush(struct conn *c) {
	size_t at = 0;
	while (at < c->out_len) {
		ssize_t n = write(c->fd, c->out + at, c->out_len - at);
		if (n < 0 && errno == EAGAIN) break;
		if (n < 0) return 0;
		at += n;
	}
	c->out_len -= at;
	if (c->out_len && at) memmove(c->out, c->out + at, c->out_len);
	while (!c->out_len && c->zeros) {
		ssize_t n = write(c->fd, body, c->zeros < LARGEST ? c->zeros : LARGEST);
		if (n < 0 && errno == EAGAIN) break;
		if (n < 0) return 0;
		c->zeros -= n;
	}
	return 1;
}

static int answer1(struct conn *c, const char *head, size_t len) {
	if (memmem(head, len, "pgrade: websocket", 17)) {
		c->mode = ECHO;
		static const char turn[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"; // for the one key that load.c has
		return add(c, turn, sizeof turn - 1);
	}
	long size = BODY;
	const char *end = memchr(head, '\r', len), *bytes = end ? memmem(head, end - head, "/bytes/", 7) : NULL;
	if (bytes) size = atol(bytes + 7);
	if (size < 0 || size > LARGEST) size = BODY;
	char text[512];
	int n = snprintf(text, sizeof text,
		"HTTP/1.1 200 OK\r\n"
		"Server: upstream\r\n"
		"Date: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
		"Content-Type: application/json\r\n"
		"Content-Length: %ld\r\n"
		"Cache-Control: no-store\r\n"
		"X-Backend: one\r\n"
		"\r\n", size);
	if (!add(c, text, n)) return 0;
	if (size <= BODY) return add(c, body, size);
	c->zeros = size;
	return 1;
}

// http1 answers the whole requests in the buffer; false: close. A large answer
// is to be out before the next one is begun.
static int http1(struct conn *c) {
	char *at = c->buf, *end;
	while (!c->zeros && c->mode == HTTP1 && (end = memmem(at, c->buf + c->have - at, "\r\n\r\n", 4))) {
		if (!answer1(c, at, end - at)) return 0;
		at = end + 4;
	}
	c->have -= at - c->buf;
	memmove(c->buf, at, c->have);
	return c->have < BUF; // a head larger than the buffer
}

static void frame(unsigned char *p, uint32_t len, int type, int flags, uint32_t stream) {
	p[0] = len >> 16; p[1] = len >> 8; p[2] = len;
	p[3] = type; p[4] = flags;
	p[5] = stream >> 24; p[6] = stream >> 16; p[7] = stream >> 8; p[8] = stream;
}

static uint32_t u32(const unsigned char *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

static void field(struct head *h, const char *name, const char *value) {
	unsigned char *p = h->bytes + h->len;
	*p++ = 0; // a literal that is not kept
	*p++ = strlen(name);
	p = mempcpy(p, name, strlen(name));
	*p++ = strlen(value);
	p = mempcpy(p, value, strlen(value));
	h->len = p - h->bytes;
}

static void make_heads(void) {
	struct head *both[] = {&plain_head, &grpc_head};
	for (int i = 0; i < 2; i++) {
		both[i]->bytes[both[i]->len++] = 0x88; // :status 200
		field(both[i], "server", "upstream");
		field(both[i], "date", "Tue, 24 Nov 2026 12:00:00 GMT");
	}
	field(&plain_head, "content-type", "application/json");
	field(&plain_head, "content-length", "1024");
	field(&plain_head, "cache-control", "no-store");
	field(&plain_head, "x-backend", "one");
	field(&grpc_head, "content-type", "application/grpc");
}

static int answer2(struct conn *c, uint32_t stream) {
	static const unsigned char trailers[] = "\x00\x0bgrpc-status\x01" "0";
	const struct head *h = c->grpc ? &grpc_head : &plain_head;
	unsigned char head[9];
	c->window -= BODY;
	frame(head, h->len, HEADERS, END_HEADERS, stream);
	if (!add(c, head, 9) || !add(c, h->bytes, h->len)) return 0;
	frame(head, BODY, DATA, c->grpc ? 0 : END_STREAM, stream);
	if (!add(c, head, 9)) return 0;
	if (!c->grpc) return add(c, body, BODY);
	// One message: not compressed, as long as the rest.
	static const unsigned char prefix[] = {0, 0, 0, (BODY - 5) >> 8, (BODY - 5) & 255};
	if (!add(c, prefix, 5) || !add(c, body, BODY - 5)) return 0;
	frame(head, sizeof trailers - 1, HEADERS, END_HEADERS | END_STREAM, stream);
	return add(c, head, 9) && add(c, trailers, sizeof trailers - 1);
}

static int due(struct conn *c) {
	while (c->wait_len && c->window >= BODY) {
		uint32_t stream = c->waiting[c->wait_head++ % WAITING];
		c->wait_len--;
		if (!answer2(c, stream)) return 0;
	}
	return 1;
}

static int on_frame(struct conn *c, const unsigned char *p, uint32_t len) {
	int type = p[3], flags = p[4];
	uint32_t stream = u32(p + 5) & 0x7fffffff;
	unsigned char out[17];
	switch (type) {
	case DATA:
		c->received += len;
		if (c->received > 1 << 20) { // the connection's window was made large at its start
			frame(out, 4, WINDOW_UPDATE, 0, 0);
			uint32_t n = htonl(c->received);
			memcpy(out + 9, &n, 4);
			c->received = 0;
			if (!add(c, out, 13)) return 0;
		}
		// fall through
	case HEADERS:
		if (!(flags & END_STREAM)) return 1;
		if (c->wait_len == WAITING) return 0;
		c->waiting[(c->wait_head + c->wait_len++) % WAITING] = stream;
		return due(c);
	case SETTINGS:
		if (flags & ACK) return 1;
		frame(out, 0, SETTINGS, ACK, 0);
		return add(c, out, 9);
	case PING:
		if (flags & ACK || len != 8) return 1;
		frame(out, 8, PING, ACK, 0);
		memcpy(out + 9, p + 9, 8);
		return add(c, out, 17);
	case WINDOW_UPDATE:
		if (stream == 0 && len == 4) c->window += u32(p + 9) & 0x7fffffff;
		return due(c);
	}
	return 1;
}

static int http2(struct conn *c) {
	size_t at = 0;
	while (c->have - at >= 9) {
		const unsigned char *p = (unsigned char *)c->buf + at;
		uint32_t len = p[0] << 16 | p[1] << 8 | p[2];
		if (len > BUF - 9) return 0;
		if (c->have - at < 9 + len) break;
		if (!on_frame(c, p, len)) return 0;
		at += 9 + len;
	}
	c->have -= at;
	memmove(c->buf, c->buf + at, c->have);
	return 1;
}

static int start2(struct conn *c) {
	unsigned char hello[9 + 6 + 13];
	frame(hello, 6, SETTINGS, 0, 0);
	memcpy(hello + 9, "\x00\x03\x00\x00\x04\x00", 6); // 1024 streams
	frame(hello + 15, 4, WINDOW_UPDATE, 0, 0);
	memcpy(hello + 24, "\x3f\x00\x00\x00", 4);
	c->mode = HTTP2;
	c->window = 65535;
	c->have -= sizeof preface - 1;
	memmove(c->buf, c->buf + sizeof preface - 1, c->have);
	return add(c, hello, sizeof hello);
}

// work does what can be done with the buffer; false: close.
static int work(struct conn *c) {
	if (c->mode == HTTP1 && c->have >= 3 && !memcmp(c->buf, preface, 3)) {
		if (c->have < sizeof preface - 1) return 1;
		if (!start2(c)) return 0;
	}
	if (c->mode == HTTP2) return http2(c);
	if (c->mode == HTTP1 && !http1(c)) return 0;
	if (c->mode == ECHO && c->have) {
		if (!add(c, c->buf, c->have)) return 0;
		c->have = 0;
	}
	return 1;
}

static int serve(struct conn *c) {
	for (;;) {
		if (!flush(c)) return 0;
		if (c->out_len || c->zeros) return 1; // there is an event when it can go on
		if (c->have && c->mode == HTTP1 && memmem(c->buf, c->have, "\r\n\r\n", 4)) {
			if (!work(c)) return 0;
			continue;
		}
		ssize_t n = read(c->fd, c->buf + c->have, BUF - c->have);
		if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
		if (n < 0) return 1;
		size_t room = BUF - c->have;
		c->have += n;
		if (!work(c) || !flush(c)) return 0;
		if ((size_t)n < room && !c->out_len && !c->zeros && !(c->mode == HTTP1 && c->have)) return 1; // drained
	}
}

static int listen_on(int ep, int port, intptr_t mark) {
	int one = 1, ln = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(ln, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(ln, (struct sockaddr *)&sa, sizeof sa) || listen(ln, 4096)) { perror("upstream"); exit(1); }
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = mark};
	epoll_ctl(ep, EPOLL_CTL_ADD, ln, &ev);
	return ln;
}

static void accept_all(int ep, int ln, int grpc) {
	int fd, one = 1;
	while ((fd = accept4(ln, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct conn *c = calloc(1, sizeof *c);
		if (!c) exit(1);
		c->fd = fd;
		c->grpc = grpc;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
		epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	}
}

int main(int argc, char **argv) {
	if (argc != 3) { fprintf(stderr, "usage: upstream PORT GRPCPORT\n"); return 2; }
	signal(SIGPIPE, SIG_IGN);
	memset(body, 'x', sizeof body);
	make_heads();
	int ep = epoll_create1(0);
	int ln = listen_on(ep, atoi(argv[1]), 0), grpc = listen_on(ep, atoi(argv[2]), 1);
	struct epoll_event evs[256];
	for (;;) {
		int n = epoll_wait(ep, evs, 256, -1);
		for (int i = 0; i < n; i++) {
			if (evs[i].data.u64 < 2) {
				accept_all(ep, evs[i].data.u64 ? grpc : ln, evs[i].data.u64);
				continue;
			}
			struct conn *c = evs[i].data.ptr;
			if (!serve(c)) { close(c->fd); free(c->out); free(c); }
		}
	}
}
