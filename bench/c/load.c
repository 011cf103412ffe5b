// load: the client of the bench. One thread, epoll, keep-alive connections,
// optionally TLS 1.3.
//
// Closed loop (no -r): every connection sends its next request as soon as it
// has its answer. Open loop (-r RATE): requests are due at fixed times whether
// or not earlier ones were answered, and latency counts from the time a
// request was due, so that a stall of the proxy is seen by all who wait.
//
// With -p it reads the CPU clocks of the processes under test at both ends of
// the measured time. The result is one line of JSON.
//
// Messages (-m BYTES): every connection is turned into a WebSocket first. What
// is then sent is one frame of so many bytes, and its answer the same number of
// bytes sent back.
//
// Hold (-k): opens the connections, has one request answered on each, prints
// a line, and keeps them open and silent until its input ends.
#define _GNU_SOURCE
#include "clock.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUF = 64 << 10, MAXPID = 32, MAXSAMPLE = 4 << 20, MAXWAIT = 1 << 20 };

struct conn {
	int fd;
	SSL *ssl;
	int busy, unsent; // unsent: the request could not be written yet
	int64_t due;      // when the request in flight was due
	size_t have;      // bytes of the head in buf
	int64_t body;     // bytes of the body still to come; -1: in the head
	char buf[BUF];
};

static char request[4096], turn[1024]; // turn: asks for the WebSocket
static size_t request_len;
static int message; // bytes of a frame; 0: HTTP
static struct sockaddr_in target;
static const char *sni;
static SSL_CTX *tls;
static struct conn *conns;
static int nconns = 64, ep;

static uint32_t *samples; // latencies in units of 100 ns
static int64_t nsamples, done, bad, broken;
static int64_t window_start, window_end;

static int *idle, idle_head, idle_count; // connections without a request, first in first out
static int64_t *waiting, wait_head, wait_count; // due times without a connection
static int64_t rate;

static void die(const char *what) { perror(what); exit(1); }

// upgrade asks for a WebSocket and waits until it is there.
static int upgrade(struct conn *c) {
	size_t n = strlen(turn), have = 0;
	if (write(c->fd, turn, n) != (ssize_t)n) return -1;
	for (;;) {
		ssize_t r = read(c->fd, c->buf + have, BUF - 1 - have);
		if (r <= 0) return -1;
		have += r;
		c->buf[have] = 0;
		if (strstr(c->buf, "\r\n\r\n")) return strncmp(c->buf, "HTTP/1.1 101", 12) ? -1 : 0;
	}
}

// make_frame makes request one masked frame of text, of message bytes in all.
static void make_frame(void) {
	int n = message - 8;
	memset(request, 'x', message);
	memcpy(request, "\x81\xfe\x00\x00\x00\x00\x00\x00", 8); // the mask is zero
	request[2] = n >> 8;
	request[3] = n & 255;
	request_len = message;
}

// dial connects, with its TLS handshake, before the socket becomes
// non-blocking.
static int dial(struct conn *c) {
	int one = 1;
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&target, sizeof target)) return -1;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (tls) {
		c->ssl = SSL_new(tls);
		SSL_set_fd(c->ssl, c->fd);
		SSL_set_tlsext_host_name(c->ssl, sni);
		if (SSL_connect(c->ssl) != 1) { ERR_print_errors_fp(stderr); return -1; }
	}
	if (message && upgrade(c)) return -1;
	fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
	c->busy = c->unsent = 0;
	c->have = 0;
	c->body = message ? message : -1;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
	return epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

static void hang_up(struct conn *c) {
	if (c->ssl) SSL_free(c->ssl);
	c->ssl = NULL;
	close(c->fd);
}

// Both return 0 for "not now" and -1 for "broken".
static ssize_t put(struct conn *c, const char *p, size_t n) {
	ssize_t w;
	if (!c->ssl) {
		w = write(c->fd, p, n);
		return w >= 0 ? w : errno == EAGAIN ? 0 : -1;
	}
	w = SSL_write(c->ssl, p, n);
	if (w > 0) return w;
	int e = SSL_get_error(c->ssl, w);
	return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t get(struct conn *c, char *p, size_t n) {
	ssize_t r;
	if (!c->ssl) {
		r = read(c->fd, p, n);
		return r > 0 ? r : r < 0 && errno == EAGAIN ? 0 : -1;
	}
	r = SSL_read(c->ssl, p, n);
	if (r > 0) return r;
	int e = SSL_get_error(c->ssl, r);
	return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static int send_request(struct conn *c, int64_t due) {
	c->busy = 1;
	c->due = due;
	ssize_t n = put(c, request, request_len);
	if (n == 0) { c->unsent = 1; return 0; }
	return n == (ssize_t)request_len ? 0 : -1; // a request is smaller than any socket buffer
}

// head reads status and length once the whole head is there: 1 if it is.
static int head(struct conn *c) {
	c->buf[c->have] = 0;
	char *end = strstr(c->buf, "\r\n\r\n");
	if (!end) return c->have >= BUF - 1 ? -1 : 0;
	*end = 0;
	char *length = strcasestr(c->buf, "\r\ncontent-length:");
	if (!length) return -1;
	if (strncmp(c->buf, "HTTP/1.1 200", 12)) bad++;
	c->body = atoll(length + 17) - (int64_t)(c->have - (end + 4 - c->buf));
	return 1;
}

// receive takes what came: 1 at the end of the answer, 0 for more to come.
static int receive(struct conn *c) {
	for (;;) {
		if (c->body < 0) {
			ssize_t n = get(c, c->buf + c->have, BUF - 1 - c->have);
			if (n <= 0) return n;
			c->have += n;
			if (head(c) < 0) return -1;
		} else {
			ssize_t n = get(c, c->buf, BUF);
			if (n <= 0) return n;
			c->body -= n;
		}
		if (c->body == 0) {
			c->have = 0;
			c->body = message ? message : -1;
			c->busy = 0;
			return 1;
		}
	}
}

static void count(struct conn *c) {
	int64_t now = now_ns();
	if (now < window_start || now >= window_end) return;
	done++;
	int64_t took = (now - c->due) / 100;
	if (nsamples < MAXSAMPLE) samples[nsamples++] = took > UINT32_MAX ? UINT32_MAX : took;
}

// again gives a connection that is free its next request, if one is due.
static int again(struct conn *c) {
	if (!rate) return send_request(c, now_ns());
	if (wait_count > 0) {
		int64_t due = waiting[wait_head];
		wait_head = (wait_head + 1) % MAXWAIT;
		wait_count--;
		return send_request(c, due);
	}
	idle[(idle_head + idle_count++) % nconns] = c - conns;
	return 0;
}

static void repair(struct conn *c) {
	broken++;
	hang_up(c);
	if (dial(c) || again(c)) die("reconnect");
}

static void ready(struct conn *c) {
	if (c->unsent) {
		ssize_t n = put(c, request, request_len);
		if (n < 0) { repair(c); return; }
		if (n > 0) c->unsent = 0;
	}
	if (!c->busy) return; // an event for a connection without a request: seen when it is used
	int r = receive(c);
	if (r < 0) { repair(c); return; }
	if (r > 0) {
		count(c);
		if (again(c)) repair(c);
	}
}

// release starts the requests that are due and says when the next one is.
static int64_t release(int64_t next, int64_t step) {
	for (int64_t now = now_ns(); next <= now; next += step) {
		if (idle_count > 0) {
			struct conn *c = &conns[idle[idle_head]];
			idle_head = (idle_head + 1) % nconns;
			idle_count--;
			if (send_request(c, next)) repair(c);
		} else if (wait_count < MAXWAIT) {
			waiting[(wait_head + wait_count++) % MAXWAIT] = next;
		}
	}
	return next;
}

static int by_value(const void *a, const void *b) {
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static double percentile(double p) {
	if (nsamples == 0) return 0;
	int64_t i = (int64_t)(p / 100 * nsamples);
	return samples[i < nsamples ? i : nsamples - 1] / 10.0;
}

static void hold(void) {
	for (int i = 0; i < nconns; i++) {
		struct conn *c = &conns[i];
		if (dial(c) || send_request(c, 0)) die("hold");
		for (int r = 0; r == 0;) {
			struct epoll_event ev;
			epoll_wait(ep, &ev, 1, 5000);
			if ((r = receive(c)) < 0) { fprintf(stderr, "hold: connection %d closed\n", i); exit(1); }
		}
	}
	printf("held %d bad %ld\n", nconns, (long)bad);
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0) {}
}

int main(int argc, char **argv) {
	int opt, port = 0, keep = 0, npids = 0;
	double seconds = 2, warm = 0.5;
	const char *host = "localhost", *path = "/";
	pid_t pids[MAXPID];
	while ((opt = getopt(argc, argv, "a:H:u:c:d:w:r:p:m:tk")) > 0) {
		switch (opt) {
		case 'a': port = atoi(optarg); break;
		case 'H': host = optarg; break;
		case 'u': path = optarg; break;
		case 'c': nconns = atoi(optarg); break;
		case 'd': seconds = atof(optarg); break;
		case 'w': warm = atof(optarg); break;
		case 'r': rate = atoll(optarg); break;
		case 't': tls = SSL_CTX_new(TLS_client_method()); break;
		case 'k': keep = 1; break;
		case 'm': message = atoi(optarg); break;
		case 'p':
			for (char *p = strtok(optarg, ","); p && npids < MAXPID; p = strtok(NULL, ",")) pids[npids++] = atoi(p);
			break;
		default: fprintf(stderr, "usage: load -a PORT [-H host] [-u path] [-c conns] [-d s] [-w s] [-r rate] [-p pids] [-m bytes] [-t] [-k]\n"); return 2;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	sni = host;
	target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (tls) {
		SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
		SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256");
		static const unsigned char alpn[] = "\x08http/1.1";
		SSL_CTX_set_alpn_protos(tls, alpn, sizeof alpn - 1);
	}
	request_len = snprintf(request, sizeof request,
		"GET %s HTTP/1.1\r\n"
		"Host: %s\r\n"
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
		"Accept: application/json, text/plain, */*\r\n"
		"Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
		"Accept-Encoding: gzip, deflate, br\r\n"
		"Referer: https://%s/\r\n"
		"Cookie: session=4f2a9c1de8b7406c9a53; theme=dark\r\n"
		"Cache-Control: no-cache\r\n"
		"\r\n", path, host, host);
	if (message) {
		if (tls || message < 200 || message > (int)sizeof request) { fprintf(stderr, "load: -m takes 200 to %zu bytes, without -t\n", sizeof request); return 2; }
		snprintf(turn, sizeof turn,
			"GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, host);
		make_frame();
	}
	conns = calloc(nconns, sizeof *conns);
	idle = calloc(nconns, sizeof *idle);
	waiting = malloc(sizeof *waiting * MAXWAIT);
	samples = malloc(sizeof *samples * MAXSAMPLE);
	if (!conns || !idle || !waiting || !samples) die("memory");
	ep = epoll_create1(0);
	if (keep) { hold(); return 0; }

	for (int i = 0; i < nconns; i++)
		if (dial(&conns[i])) die("connect");
	int64_t start = now_ns(), step = rate ? 1000000000LL / rate : 0, next = start;
	window_start = start + (int64_t)(warm * 1e9);
	window_end = window_start + (int64_t)(seconds * 1e9);
	for (int i = 0; i < nconns; i++)
		if (again(&conns[i])) repair(&conns[i]);

	int64_t before[MAXPID], after[MAXPID], began = 0, now;
	struct epoll_event evs[256];
	while ((now = now_ns()) < window_end) {
		if (!began && now >= window_start) {
			began = now;
			bad = broken = 0;
			for (int i = 0; i < npids; i++) before[i] = cpu_ns(pids[i]);
		}
		int64_t until = window_end;
		if (rate) {
			next = release(next, step);
			until = next < until ? next : until;
		}
		if (!began && window_start < until) until = window_start;
		int64_t left = until - now_ns();
		if (left < 0) left = 0;
		struct timespec wait = {left / 1000000000LL, left % 1000000000LL};
		int n = epoll_pwait2(ep, evs, 256, &wait, NULL);
		for (int i = 0; i < n; i++) ready(evs[i].data.ptr);
	}
	for (int i = 0; i < npids; i++) after[i] = cpu_ns(pids[i]);
	double took = (now - began) / 1e9;

	qsort(samples, nsamples, sizeof *samples, by_value);
	printf("{\"requests\":%ld,\"seconds\":%.6f,\"bad\":%ld,\"broken\":%ld,\"unanswered\":%ld,"
		"\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f,\"cpu\":[",
		(long)done, took, (long)bad, (long)broken, (long)wait_count, percentile(50), percentile(90), percentile(99), percentile(99.9), percentile(100));
	for (int i = 0; i < npids; i++) printf("%s%ld", i ? "," : "", (long)(after[i] - before[i]));
	printf("]}\n");
	return 0;
}
