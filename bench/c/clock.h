// clock: what the loaders of the bench time with.
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// cpu_ns is what a process has used, with all its threads.
static int64_t cpu_ns(pid_t pid) {
	clockid_t id;
	struct timespec t;
	if (clock_getcpuclockid(pid, &id) || clock_gettime(id, &t)) return -1;
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}
