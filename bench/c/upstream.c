// upstream: the service behind the proxies of the bench. One thread, epoll,
// keep-alive; every request gets the same 1 KiB answer. It does so little that
// one core of it outruns every proxy.
//
//   upstream PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUF = 16384, BODY = 1024 };

struct conn {
	int fd;
	size_t have;
	char buf[BUF];
};

static char answer[2048];
static size_t answer_len;

static void make_answer(void) {
	int n = snprintf(answer, sizeof answer,
		"HTTP/1.1 200 OK\r\n"
		"Server: upstream\r\n"
		"Date: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
		"Content-Type: application/json\r\n"
		"Content-Length: %d\r\n"
		"Cache-Control: no-store\r\n"
		"X-Backend: one\r\n"
		"\r\n", BODY);
	memset(answer + n, 'x', BODY);
	answer_len = n + BODY;
}

// serve answers every whole request in the buffer; false: close.
static int serve(struct conn *c) {
	for (;;) {
		ssize_t n = read(c->fd, c->buf + c->have, BUF - c->have);
		if (n == 0 || (n < 0 && errno != EAGAIN)) return 0;
		if (n < 0) return 1;
		size_t room = BUF - c->have;
		c->have += n;
		char *at = c->buf, *end;
		while ((end = memmem(at, c->buf + c->have - at, "\r\n\r\n", 4))) {
			at = end + 4;
			if (write(c->fd, answer, answer_len) != (ssize_t)answer_len) return 0;
		}
		c->have -= at - c->buf;
		memmove(c->buf, at, c->have);
		if (c->have == BUF) return 0; // a head larger than the buffer
		if ((size_t)n < room) return 1;  // drained
	}
}

int main(int argc, char **argv) {
	if (argc != 2) { fprintf(stderr, "usage: upstream PORT\n"); return 2; }
	signal(SIGPIPE, SIG_IGN);
	make_answer();
	int one = 1, ln = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(ln, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(ln, (struct sockaddr *)&sa, sizeof sa) || listen(ln, 4096)) { perror("upstream"); return 1; }
	int ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN}, evs[256];
	epoll_ctl(ep, EPOLL_CTL_ADD, ln, &ev);
	for (;;) {
		int n = epoll_wait(ep, evs, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c) {
				if (!serve(c)) { close(c->fd); free(c); }
				continue;
			}
			int fd;
			while ((fd = accept4(ln, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
				c = malloc(sizeof *c);
				if (!c) return 1;
				c->fd = fd;
				c->have = 0;
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				struct epoll_event cev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
				epoll_ctl(ep, EPOLL_CTL_ADD, fd, &cev);
			}
		}
	}
}
