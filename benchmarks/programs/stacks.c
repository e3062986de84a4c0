/*
 * COUNT stacks of libvdestack in one program, each with an address, on one network.
 *
 *   stacks VNL ADDRESS/LEN COUNT
 *
 * Addresses are counted upwards. Says "start" before the first stack, "made SECONDS"
 * when all are there, then "connected SECONDS" when the last one has a connection to the
 * first, or "connected never", and stays until its standard input ends.
 */
#include <poll.h>
#include <time.h>

#include "vdestack.h"

#define PORT 5000
#define PATIENCE_MS 3000

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void say(const char *what, double seconds)
{
	if (seconds < 0)
		printf("%s never\n", what);
	else
		printf("%s %.6f\n", what, seconds);
	fflush(stdout);
}

/* Returns the seconds it took, -1 if it did not come about in time. */
static double first_connect(struct vdestack *one, struct vdestack *other,
			    struct in_addr address)
{
	struct sockaddr_in there = {
		.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = address
	};
	int listener = vde_msocket(one, AF_INET, SOCK_STREAM, 0);
	int client = vde_msocket(other, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd end = { .fd = client, .events = POLLOUT };
	double start = now();

	if (listener < 0 || client < 0)
		stack_failed("socket in the stack");
	if (bind(listener, (struct sockaddr *)&there, sizeof there) < 0 ||
	    listen(listener, 1) < 0)
		stack_failed("listen");
	connect(client, (struct sockaddr *)&there, sizeof there);
	if (poll(&end, 1, PATIENCE_MS) != 1 || end.revents != POLLOUT)
		return -1;
	return now() - start;
}

int main(int argc, char *argv[])
{
	struct vdestack **stacks;
	struct in_addr first, next;
	int count, prefix;
	double start;
	char byte;

	if (argc != 4 || (count = atoi(argv[3])) < 1) {
		fprintf(stderr, "usage: stacks VNL ADDRESS/LEN COUNT\n");
		return 2;
	}
	first = address_and_prefix(argv[2], &prefix);
	stacks = calloc(count, sizeof *stacks);
	puts("start");
	fflush(stdout);
	/* Who measures our memory says when. */
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return 1;
	start = now();
	for (int i = 0; i < count; i++) {
		next.s_addr = htonl(ntohl(first.s_addr) + i);
		stacks[i] = open_stack(argv[1], next, prefix);
	}
	say("made", now() - start);
	if (read(STDIN_FILENO, &byte, 1) != 1)
		return 1;
	say("connected", first_connect(stacks[0], stacks[count - 1], first));
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (int i = 0; i < count; i++)
		vde_delstack(stacks[i]); /* their helpers may stay otherwise */
	return 0;
}
