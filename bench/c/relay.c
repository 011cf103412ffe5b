// relay: both ends of the byte streams that the bench sends through a proxy.
// One thread, epoll: it writes into connections to the proxy as fast as they
// take it, and is the service behind the proxy as well, which throws away what
// arrives. The kernel discards it (MSG_TRUNC), so that this program costs less
// than any proxy.
//
// With -p it reads the CPU clocks of the processes under test at both ends of
// the measured time; bytes count where they arrive. Then it ends its streams,
// waits for the last byte and compares what was sent with what came. The result
// is one line of JSON.
#define _GNU_SOURCE
#include "clock.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 256 << 10, MAXCONN = 256, MAXPID = 32, DRAIN_SECONDS = 5 };

enum role { LISTENER, SOURCE, SINK };

struct end {
	enum role role;
	int fd;
};

static char block[BLOCK];
static struct end sources[MAXCONN], sinks[MAXCONN], listener;
static int nconns = 1, accepted, ended, broken, ep;
static int64_t sent, received;

static void die(const char *what) { perror(what); exit(1); }

static void watch(struct end *e, uint32_t events) {
	struct epoll_event ev = {.events = events, .data.ptr = e};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, e->fd, &ev)) die("epoll");
}

static struct sockaddr_in local(int port) {
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void serve(int port) {
	int one = 1;
	struct sockaddr_in sa = local(port);
	listener = (struct end){LISTENER, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
	setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener.fd, (struct sockaddr *)&sa, sizeof sa) || listen(listener.fd, MAXCONN)) die("sink");
	watch(&listener, EPOLLIN);
}

static void dial(struct end *e, int port) {
	struct sockaddr_in sa = local(port);
	*e = (struct end){SOURCE, socket(AF_INET, SOCK_STREAM, 0)};
	if (e->fd < 0 || connect(e->fd, (struct sockaddr *)&sa, sizeof sa)) die("connect");
	fcntl(e->fd, F_SETFL, fcntl(e->fd, F_GETFL) | O_NONBLOCK);
	watch(e, EPOLLOUT);
}

static void take(void) {
	int fd;
	while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		if (accepted == MAXCONN) { close(fd); broken++; continue; }
		struct end *e = &sinks[accepted++];
		*e = (struct end){SINK, fd};
		watch(e, EPOLLIN);
	}
}

static void forget(struct end *e) {
	epoll_ctl(ep, EPOLL_CTL_DEL, e->fd, NULL);
	close(e->fd);
	e->fd = -1;
}

static void ready(struct end *e) {
	ssize_t n;
	if (e->fd < 0) return; // closed by an earlier event
	switch (e->role) {
	case LISTENER:
		take();
		return;
	case SOURCE:
		n = write(e->fd, block, BLOCK);
		if (n > 0) sent += n;
		if (n < 0 && errno != EAGAIN) { broken++; forget(e); }
		return;
	case SINK:
		n = recv(e->fd, NULL, 4 * BLOCK, MSG_TRUNC);
		if (n > 0) received += n;
		if (n < 0 && errno != EAGAIN) { broken++; forget(e); }
		if (n == 0) { ended++; forget(e); }
	}
}

static void run_until(int64_t end, int drain) {
	struct epoll_event evs[64];
	for (int64_t now; (now = now_ns()) < end && !(drain && ended + broken >= nconns);) {
		struct timespec wait = {(end - now) / 1000000000LL, (end - now) % 1000000000LL};
		int n = epoll_pwait2(ep, evs, 64, &wait, NULL);
		for (int i = 0; i < n; i++) ready(evs[i].data.ptr);
	}
}

// finish ends every stream and waits for what is still on its way.
static void finish(void) {
	for (int i = 0; i < nconns; i++) {
		if (sources[i].fd < 0) continue;
		epoll_ctl(ep, EPOLL_CTL_DEL, sources[i].fd, NULL);
		shutdown(sources[i].fd, SHUT_WR);
	}
	broken += ended; // none had been told to end
	run_until(now_ns() + DRAIN_SECONDS * 1000000000LL, 1);
	if (ended + broken < nconns) broken = nconns - ended;
}

int main(int argc, char **argv) {
	int opt, port = 0, sink = 0, npids = 0;
	double seconds = 1, warm = 0.3;
	pid_t pids[MAXPID];
	int64_t before[MAXPID], after[MAXPID];
	while ((opt = getopt(argc, argv, "a:s:c:d:w:p:")) > 0) {
		switch (opt) {
		case 'a': port = atoi(optarg); break;
		case 's': sink = atoi(optarg); break;
		case 'c': nconns = atoi(optarg); break;
		case 'd': seconds = atof(optarg); break;
		case 'w': warm = atof(optarg); break;
		case 'p':
			for (char *p = strtok(optarg, ","); p && npids < MAXPID; p = strtok(NULL, ",")) pids[npids++] = atoi(p);
			break;
		default: fprintf(stderr, "usage: relay -a PORT -s SINKPORT [-c conns] [-d s] [-w s] [-p pids]\n"); return 2;
		}
	}
	if (nconns < 1 || nconns > MAXCONN) { fprintf(stderr, "relay: 1 to %d connections\n", MAXCONN); return 2; }
	signal(SIGPIPE, SIG_IGN);
	memset(block, 'x', BLOCK);
	ep = epoll_create1(0);
	serve(sink);
	for (int i = 0; i < nconns; i++) dial(&sources[i], port);

	run_until(now_ns() + (int64_t)(warm * 1e9), 0);
	int64_t began = now_ns(), base = received;
	for (int i = 0; i < npids; i++) before[i] = cpu_ns(pids[i]);
	run_until(began + (int64_t)(seconds * 1e9), 0);
	for (int i = 0; i < npids; i++) after[i] = cpu_ns(pids[i]);
	double took = (now_ns() - began) / 1e9;
	int64_t bytes = received - base;
	finish();

	printf("{\"bytes\":%ld,\"seconds\":%.6f,\"lost\":%ld,\"broken\":%d,\"cpu\":[", (long)bytes, took, (long)(sent - received), broken);
	for (int i = 0; i < npids; i++) printf("%s%ld", i ? "," : "", (long)(after[i] - before[i]));
	printf("]}\n");
	return 0;
}
