/*
 * The traffic of the benchmarks: one end of a conversation, in whatever network it runs.
 *
 *   load serve PORT
 *   load ask HOST PORT
 *
 * `serve` says "ready" and serves one client at a time until its standard input ends.
 * `ask` reads lines "MEASURE SECONDS" from its standard input and answers each with a
 * line of JSON:
 *
 *   tcp          as much as goes, counted and timed by the receiver
 *   rtt          one byte there and back again, over and over
 *   connections  opened, closed by the server, closed, one after the other
 *   udp          datagrams of 64 bytes, at most 64 under way, counted by the receiver
 *
 * With -DVDESTACK two arguments more come first, VNL and ADDRESS/LEN, and every socket is
 * one of a libvdestack stack, made as a program of that library makes it.
 *
 * load.py is the same in Python, for machines without a compiler.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (128 * 1024)
#define MAX_PINGS 200000
#define PATIENCE_SECONDS 5
#define LIFETIME_SECONDS 1800

/* Datagrams under way; every 16th is acknowledged. They fit into a socket's queue. */
#define WINDOW 64
#define STRIDE 16
#define SILENCE_MS 20

struct datagram {
	uint64_t session, number, count;
	char rest[40];
};

static char chunk[CHUNK];
static double pings[MAX_PINGS];

static void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

#ifdef VDESTACK
#include "vdestack.h"
static struct vdestack *stack;

static int new_socket(int type)
{
	int sock = vde_msocket(stack, AF_INET, type, 0);
#else
static int new_socket(int type)
{
	int sock = socket(AF_INET, type, 0);
#endif
	if (sock < 0)
		fail("socket");
	return sock;
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void be_quick_and_bounded(int sock)
{
	struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
	int on = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

/* The server. */

static int bound(int type, int port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int sock = new_socket(type), on = 1;

	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(sock, (struct sockaddr *)&any, sizeof any) < 0)
		fail("bind");
	if (type == SOCK_STREAM && listen(sock, 128) < 0)
		fail("listen");
	fcntl(sock, F_SETFL, O_NONBLOCK);
	return sock;
}

static void swallow(int peer)
{
	uint64_t answer[2], bytes = 0, start = now_ns();
	ssize_t length;

	while ((length = read(peer, chunk, sizeof chunk)) > 0)
		bytes += length;
	answer[0] = htobe64(bytes);
	answer[1] = htobe64(now_ns() - start);
	if (write(peer, answer, sizeof answer) != sizeof answer)
		fprintf(stderr, "load: the sender has gone\n");
}

/* What the client wants is its first byte; its errors are the client's to tell. */
static void converse(int listener)
{
	int peer = accept(listener, NULL, NULL);
	char wish;

	if (peer < 0)
		return;
	be_quick_and_bounded(peer);
	if (read(peer, &wish, 1) == 1) {
		if (wish == 's')
			swallow(peer);
		else
			while (read(peer, chunk, 1) == 1 && write(peer, chunk, 1) == 1)
				;
	}
	close(peer);
}

static void acknowledge(int sock)
{
	static uint64_t session, count, last;
	struct sockaddr_in peer;
	struct datagram it;
	socklen_t size = sizeof peer;

	while (recvfrom(sock, &it, sizeof it, MSG_DONTWAIT, (struct sockaddr *)&peer,
			&size) == sizeof it) {
		uint64_t number = be64toh(it.number);

		if (it.session != session) {
			session = it.session;
			count = last = 0;
		}
		it.count = htobe64(++count);
		if (number / STRIDE != last / STRIDE) {
			last = number;
			sendto(sock, &it, sizeof it, 0, (struct sockaddr *)&peer, size);
		}
		size = sizeof peer;
	}
}

static void serve(int port)
{
	struct pollfd ends[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = bound(SOCK_STREAM, port), .events = POLLIN },
		{ .fd = bound(SOCK_STREAM, port + 1), .events = POLLIN },
		{ .fd = bound(SOCK_DGRAM, port), .events = POLLIN },
	};
	int peer;

	puts("ready");
	fflush(stdout);
	while (poll(ends, 4, -1) > 0) {
		if (ends[0].revents && read(STDIN_FILENO, chunk, sizeof chunk) <= 0)
			return;
		if (ends[1].revents)
			converse(ends[1].fd);
		while (ends[2].revents && (peer = accept(ends[2].fd, NULL, NULL)) >= 0)
			close(peer);
		if (ends[3].revents)
			acknowledge(ends[3].fd);
	}
}

/* The client. */

static int connected(int type, const struct sockaddr_in *there)
{
	int sock = new_socket(type);

	be_quick_and_bounded(sock);
	if (connect(sock, (const struct sockaddr *)there, sizeof *there) < 0)
		fail("connect");
	return sock;
}

static void tcp(const struct sockaddr_in *there, double seconds)
{
	uint64_t answer[2], end = now_ns() + seconds * 1e9;
	int sock = connected(SOCK_STREAM, there);

	if (write(sock, "s", 1) != 1)
		fail("send");
	while (now_ns() < end)
		if (write(sock, chunk, sizeof chunk) < 0)
			fail("send");
	shutdown(sock, SHUT_WR);
	if (recv(sock, answer, sizeof answer, MSG_WAITALL) != sizeof answer)
		fail("the receiver's count");
	printf("{\"tcp\": %.6f}\n", 8.0 * be64toh(answer[0]) / be64toh(answer[1]));
	close(sock);
}

static int by_size(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static void rtt(const struct sockaddr_in *there, double seconds)
{
	int sock = connected(SOCK_STREAM, there), count = 0;
	uint64_t before, after, end;
	char byte = 'e';

	if (write(sock, &byte, 1) != 1)
		fail("send");
	before = now_ns();
	end = before + seconds * 1e9;
	while (before < end && count < MAX_PINGS) {
		if (write(sock, &byte, 1) != 1 || read(sock, &byte, 1) != 1)
			fail("echo");
		after = now_ns();
		pings[count++] = (after - before) / 1e3;
		before = after;
	}
	close(sock);
	qsort(pings, count, sizeof *pings, by_size);
	printf("{\"rtt\": %.3f}\n", pings[count / 2]);
}

/* The server closes first and we reset, so that neither side is left with TIME_WAIT. */
static void connections(const struct sockaddr_in *there, double seconds)
{
	struct sockaddr_in quick = *there;
	struct linger reset = { .l_onoff = 1 };
	uint64_t start = now_ns(), now = start, end = start + seconds * 1e9;
	long count = 0;

	quick.sin_port = htons(ntohs(there->sin_port) + 1);
	for (; now < end; now = now_ns(), count++) {
		int sock = connected(SOCK_STREAM, &quick);
		char byte;

		setsockopt(sock, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		if (read(sock, &byte, 1) != 0)
			fail("end of a connection");
		close(sock);
	}
	printf("{\"connections\": %.1f}\n", count / ((now - start) / 1e9));
}

static void udp(const struct sockaddr_in *there, double seconds)
{
	struct pollfd answers = { .fd = connected(SOCK_DGRAM, there), .events = POLLIN };
	struct datagram it = { .session = now_ns() };
	uint64_t start = now_ns(), now = start, end = start + seconds * 1e9;
	uint64_t sent = 0, acknowledged = 0, count = 0;

	for (; now < end; now = now_ns()) {
		for (; sent < acknowledged + WINDOW; it.count = 0) {
			it.number = htobe64(++sent);
			/* Refused only while the queue is full: as good as lost. */
			if (send(answers.fd, &it, sizeof it, 0) < 0 && errno != ENOBUFS)
				fail("send");
		}
		if (poll(&answers, 1, SILENCE_MS) > 0) {
			struct datagram answer;

			while (recv(answers.fd, &answer, sizeof answer, MSG_DONTWAIT) > 0)
				if (answer.session == it.session) {
					acknowledged = be64toh(answer.number);
					count = be64toh(answer.count);
				}
		} else {
			acknowledged = sent; /* all are lost, or their acknowledgements */
		}
	}
	printf("{\"udp\": %.1f}\n", count / ((now - start) / 1e9));
	close(answers.fd);
}

static const struct {
	const char *name;
	void (*run)(const struct sockaddr_in *there, double seconds);
} measures[] = {
	{ "tcp", tcp }, { "rtt", rtt }, { "connections", connections }, { "udp", udp },
};

static void ask(const char *host, int port)
{
	struct sockaddr_in there = { .sin_family = AF_INET, .sin_port = htons(port) };
	char line[80], name[20];
	double seconds;

	if (inet_pton(AF_INET, host, &there.sin_addr) != 1) {
		fprintf(stderr, "load: %s is no IPv4 address\n", host);
		exit(2);
	}
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "%19s %lf", name, &seconds) != 2)
			continue;
		for (size_t i = 0; i < sizeof measures / sizeof *measures; i++)
			if (strcmp(name, measures[i].name) == 0)
				measures[i].run(&there, seconds);
		fflush(stdout);
	}
}

int main(int argc, char *argv[])
{
	alarm(LIFETIME_SECONDS); /* whatever happens, it does not stay */
#ifdef VDESTACK
	if (argc > 2) {
		int prefix;
		struct in_addr address = address_and_prefix(argv[2], &prefix);

		stack = open_stack(argv[1], address, prefix);
		argc -= 2;
		argv += 2;
	}
#endif
	if (argc == 3 && strcmp(argv[1], "serve") == 0) {
		serve(atoi(argv[2]));
	} else if (argc == 4 && strcmp(argv[1], "ask") == 0) {
		ask(argv[2], atoi(argv[3]));
	} else {
		fprintf(stderr, "usage: load serve PORT | load ask HOST PORT\n");
		return 2;
	}
#ifdef VDESTACK
	if (stack != NULL)
		vde_delstack(stack); /* its helper may stay otherwise */
#endif
	return 0;
}
