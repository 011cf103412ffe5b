// handshake: TLS handshakes for the bench. One thread, epoll. Each of its slots
// connects, makes a TLS 1.3 handshake, asks once, reads the answer to its end and
// hangs up, again and again; with -r every handshake but a slot's first resumes
// the session before.
//
// With -p it reads the CPU clocks of the processes under test at both ends of
// the measured time. The result is one line of JSON, as load's.
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

enum { BUF = 16384, MAXPID = 32 };

struct slot {
	int fd, asked, resumed;
	SSL *ssl;
	SSL_SESSION *session; // of the handshake before
	int64_t got;
	char head[16];
};

static struct sockaddr_in target;
static const char *host = "localhost";
static char request[1024];
static int request_len, resume, ep;
static SSL_CTX *ctx;
static int64_t window_start, window_end, done, bad, broken, not_resumed;

static void die(const char *what) { perror(what); exit(1); }

// keep takes the newest ticket.
static int keep(SSL *ssl, SSL_SESSION *session) {
	struct slot *s = SSL_get_app_data(ssl);
	if (s->session) SSL_SESSION_free(s->session);
	s->session = session;
	return 1;
}

static void begin(struct slot *s) {
	int one = 1;
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (s->fd < 0) die("socket");
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	// The port may be used again at once: there are more handshakes than ports.
	struct linger hard = {1, 0};
	setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	if (connect(s->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) die("connect");
	s->ssl = SSL_new(ctx);
	SSL_set_app_data(s->ssl, s);
	SSL_set_fd(s->ssl, s->fd);
	SSL_set_tlsext_host_name(s->ssl, host);
	SSL_set_connect_state(s->ssl);
	s->resumed = resume && s->session != NULL;
	if (s->resumed) SSL_set_session(s->ssl, s->session);
	s->asked = 0;
	s->got = 0;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = s};
	epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &ev);
}

static void end(struct slot *s, int well) {
	int64_t now = now_ns();
	if (now >= window_start && now < window_end) {
		if (!well) broken++;
		else {
			done++;
			if (strncmp(s->head, "HTTP/1.1 200", 12)) bad++;
			if (resume && !SSL_session_reused(s->ssl)) not_resumed++;
		}
	}
	SSL_set_shutdown(s->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); // so that the session may be used again
	SSL_free(s->ssl);
	close(s->fd);
	begin(s);
}

// step goes on until the socket has no more: 0 then, 1 at the end, -1 broken.
static int step(struct slot *s) {
	static char buf[BUF];
	int n;
	if (!s->asked) {
		if ((n = SSL_do_handshake(s->ssl)) != 1) goto wait;
		if ((n = SSL_write(s->ssl, request, request_len)) <= 0) goto wait;
		s->asked = 1;
	}
	for (;;) {
		n = SSL_read(s->ssl, buf, sizeof buf);
		if (n <= 0) {
			if (SSL_get_error(s->ssl, n) == SSL_ERROR_ZERO_RETURN) return s->got > 0 ? 1 : -1;
			goto wait;
		}
		for (int i = 0; i < n && s->got + i < (int)sizeof s->head - 1; i++) s->head[s->got + i] = buf[i];
		s->got += n;
	}
wait:
	switch (SSL_get_error(s->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: return 0;
	}
	ERR_clear_error();
	return -1;
}

int main(int argc, char **argv) {
	int opt, port = 0, slots = 32, npids = 0;
	double seconds = 2, warm = 0.4;
	const char *path = "/";
	pid_t pids[MAXPID];
	while ((opt = getopt(argc, argv, "a:H:u:c:d:w:p:r")) > 0) {
		switch (opt) {
		case 'a': port = atoi(optarg); break;
		case 'H': host = optarg; break;
		case 'u': path = optarg; break;
		case 'c': slots = atoi(optarg); break;
		case 'd': seconds = atof(optarg); break;
		case 'w': warm = atof(optarg); break;
		case 'r': resume = 1; break;
		case 'p':
			for (char *p = strtok(optarg, ","); p && npids < MAXPID; p = strtok(NULL, ",")) pids[npids++] = atoi(p);
			break;
		default: fprintf(stderr, "usage: handshake -a PORT [-H host] [-u path] [-c slots] [-d s] [-w s] [-p pids] [-r]\n"); return 2;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
	static const unsigned char alpn[] = "\x08http/1.1";
	SSL_CTX_set_alpn_protos(ctx, alpn, sizeof alpn - 1);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, keep);
	request_len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
	struct slot *all = calloc(slots, sizeof *all);
	if (!all) die("memory");
	ep = epoll_create1(0);
	int64_t start = now_ns(), began = 0, now;
	window_start = start + (int64_t)(warm * 1e9);
	window_end = window_start + (int64_t)(seconds * 1e9);
	for (int i = 0; i < slots; i++) begin(&all[i]);
	int64_t before[MAXPID], after[MAXPID];
	struct epoll_event evs[256];
	while ((now = now_ns()) < window_end) {
		if (!began && now >= window_start) {
			began = now;
			for (int i = 0; i < npids; i++) before[i] = cpu_ns(pids[i]);
		}
		int64_t until = began ? window_end : window_start, left = until - now;
		struct timespec wait = {left / 1000000000LL, left % 1000000000LL};
		int n = epoll_pwait2(ep, evs, 256, &wait, NULL);
		for (int i = 0; i < n; i++) {
			struct slot *s = evs[i].data.ptr;
			int r = step(s);
			if (r) end(s, r > 0);
		}
	}
	for (int i = 0; i < npids; i++) after[i] = cpu_ns(pids[i]);
	printf("{\"requests\":%ld,\"seconds\":%.6f,\"bad\":%ld,\"broken\":%ld,\"cpu\":[",
		(long)done, (now - began) / 1e9, (long)(bad + not_resumed), (long)broken);
	for (int i = 0; i < npids; i++) printf("%s%ld", i ? "," : "", (long)(after[i] - before[i]));
	printf("]}\n");
	return 0;
}
