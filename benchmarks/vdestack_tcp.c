/*
 * One end of a TCP connection, for benchmarks/pump.py.
 *
 *   vdestack_tcp VNL IP/LEN serve PORT
 *   vdestack_tcp VNL IP/LEN connect HOST PORT SECONDS
 *
 * The end lives in a libvdestack stack on VNL. With `fd:N` for VNL it uses the socket
 * that it has inherited as descriptor N instead, whoever made it, and IP/LEN says what
 * to bind to: so another stack runs the very same application.
 *
 * The client first sends 'p' and waits for the echo, again and again, then 'd' and as
 * much as goes in SECONDS. The server answers the end of that with the number of bytes
 * and of nanoseconds from 'd' to the end, both as 64 bits, big endian. The client
 * prints "GBIT_PER_SECOND ROUND_TRIP_P50_US", the server "ready" when it listens. The
 * server stays until its standard input ends: the stack goes with it, and a switch
 * throws away what a port has sent just before it went.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <vdestack.h>

#define INTERFACE "vde0"
#define CHUNK (128 * 1024)
#define PING_SECONDS 0.4
#define MAX_PINGS 100000

static char chunk[CHUNK];
static double pings[MAX_PINGS];

static void fail(const char *what)
{
	fprintf(stderr, "vdestack_tcp: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static struct sockaddr_in address(const char *host, int port)
{
	struct sockaddr_in result = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, host, &result.sin_addr) != 1) {
		fprintf(stderr, "vdestack_tcp: %s is no IPv4 address\n", host);
		exit(1);
	}
	return result;
}

/* vde_addstack returns before the interface is there: ask again for two seconds. */
static void configure(struct vdestack *stack, const char *host, int prefix)
{
	struct ifreq request = { .ifr_name = INTERFACE };
	struct sockaddr_in value = address(host, 0);
	int sock = vde_msocket(stack, AF_INET, SOCK_DGRAM, 0);
	int tries = 2000;

	if (sock < 0)
		fail("socket in the stack");
	memcpy(&request.ifr_addr, &value, sizeof value);
	while (ioctl(sock, SIOCSIFADDR, &request) < 0) {
		if (errno != ENODEV || --tries == 0)
			fail("address of " INTERFACE);
		usleep(1000);
	}
	value.sin_addr.s_addr = prefix ? htonl(~0u << (32 - prefix)) : 0;
	memcpy(&request.ifr_netmask, &value, sizeof value);
	if (ioctl(sock, SIOCSIFNETMASK, &request) < 0)
		fail("netmask of " INTERFACE);
	if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		fail("flags of " INTERFACE);
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request) < 0)
		fail("up of " INTERFACE);
	close(sock);
}

static void serve(int sock, const char *host, int port)
{
	struct sockaddr_in mine = address(host, port);
	uint64_t answer[2], bytes = 0, start;
	ssize_t length;
	int on = 1, peer;

	if (bind(sock, (struct sockaddr *)&mine, sizeof mine) < 0)
		fail("bind");
	if (listen(sock, 1) < 0)
		fail("listen");
	puts("ready");
	fflush(stdout);
	if ((peer = accept(sock, NULL, NULL)) < 0)
		fail("accept");
	setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	while ((length = read(peer, chunk, 1)) == 1 && chunk[0] == 'p')
		if (write(peer, chunk, 1) != 1)
			fail("echo");
	start = now_ns();
	while ((length = read(peer, chunk, sizeof chunk)) > 0)
		bytes += length;
	if (length < 0)
		fail("receive");
	answer[0] = htobe64(bytes);
	answer[1] = htobe64(now_ns() - start);
	if (write(peer, answer, sizeof answer) != sizeof answer)
		fail("answer");
	while (read(STDIN_FILENO, chunk, sizeof chunk) > 0)
		;
	close(peer);
}

static int by_size(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static double round_trip_us(int sock)
{
	uint64_t before = now_ns(), after, end = before + PING_SECONDS * 1e9;
	int count = 0;
	char byte = 'p';

	while (before < end && count < MAX_PINGS) {
		if (write(sock, &byte, 1) != 1 || read(sock, &byte, 1) != 1)
			fail("ping");
		after = now_ns();
		pings[count++] = (after - before) / 1e3;
		before = after;
	}
	qsort(pings, count, sizeof *pings, by_size);
	return pings[count / 2];
}

static void connect_and_send(int sock, const char *host, int port, double seconds)
{
	struct sockaddr_in theirs = address(host, port);
	uint64_t answer[2], end;
	double round_trip;
	int on = 1;

	if (connect(sock, (struct sockaddr *)&theirs, sizeof theirs) < 0)
		fail("connect");
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	round_trip = round_trip_us(sock);
	end = now_ns() + seconds * 1e9;
	if (write(sock, "d", 1) != 1)
		fail("send");
	while (now_ns() < end)
		if (write(sock, chunk, sizeof chunk) < 0)
			fail("send");
	shutdown(sock, SHUT_WR);
	if (recv(sock, answer, sizeof answer, MSG_WAITALL) != sizeof answer)
		fail("answer");
	printf("%.6f %.2f\n", 8.0 * be64toh(answer[0]) / be64toh(answer[1]), round_trip);
}

int main(int argc, char *argv[])
{
	struct vdestack *stack = NULL;
	char *slash;
	int serving = argc == 5 && strcmp(argv[3], "serve") == 0;
	int sock;

	if (!serving && !(argc == 7 && strcmp(argv[3], "connect") == 0)) {
		fprintf(stderr, "usage: %s VNL IP/LEN serve PORT\n"
			"       %s VNL IP/LEN connect HOST PORT SECONDS\n",
			argv[0], argv[0]);
		return 2;
	}
	if ((slash = strchr(argv[2], '/')) != NULL)
		*slash++ = '\0';
	if (strncmp(argv[1], "fd:", 3) == 0) {
		sock = atoi(argv[1] + 3);
	} else {
		if ((stack = vde_addstack(argv[1], INTERFACE)) == NULL)
			fail("vde_addstack");
		configure(stack, argv[2], slash ? atoi(slash) : 24);
		if ((sock = vde_msocket(stack, AF_INET, SOCK_STREAM, 0)) < 0)
			fail("socket in the stack");
	}
	if (serving)
		serve(sock, argv[2], atoi(argv[4]));
	else
		connect_and_send(sock, argv[4], atoi(argv[5]), atof(argv[6]));
	close(sock);
	if (stack != NULL)
		vde_delstack(stack);
	return 0;
}
