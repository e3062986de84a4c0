/*
 * A stack of libvdestack, ready for use: what load.c and stacks.c share.
 */
#ifndef BENCHMARKS_VDESTACK_H
#define BENCHMARKS_VDESTACK_H

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vdestack.h>

#define INTERFACE "vde0"

static void stack_failed(const char *what)
{
	fprintf(stderr, "libvdestack: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* vde_addstack returns before the interface is there: ask again for two seconds. */
static void configure(struct vdestack *stack, struct in_addr address, int prefix)
{
	struct ifreq request = { .ifr_name = INTERFACE };
	struct sockaddr_in value = { .sin_family = AF_INET, .sin_addr = address };
	int sock = vde_msocket(stack, AF_INET, SOCK_DGRAM, 0);
	int tries = 20000;

	if (sock < 0)
		stack_failed("socket in the stack");
	memcpy(&request.ifr_addr, &value, sizeof value);
	while (ioctl(sock, SIOCSIFADDR, &request) < 0) {
		if (errno != ENODEV || --tries == 0)
			stack_failed("address of " INTERFACE);
		usleep(100);
	}
	value.sin_addr.s_addr = prefix ? htonl(~0u << (32 - prefix)) : 0;
	memcpy(&request.ifr_netmask, &value, sizeof value);
	if (ioctl(sock, SIOCSIFNETMASK, &request) < 0)
		stack_failed("netmask of " INTERFACE);
	if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		stack_failed("flags of " INTERFACE);
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request) < 0)
		stack_failed("up of " INTERFACE);
	close(sock);
}

static struct vdestack *open_stack(char *vnl, struct in_addr address, int prefix)
{
	struct vdestack *stack = vde_addstack(vnl, INTERFACE);

	if (stack == NULL)
		stack_failed("vde_addstack");
	configure(stack, address, prefix);
	return stack;
}

/* Takes ADDRESS/LEN apart, and ends the program if it is none. */
static struct in_addr address_and_prefix(char *text, int *prefix)
{
	struct in_addr address;
	char *slash = strchr(text, '/');

	*prefix = 24;
	if (slash != NULL) {
		*slash = '\0';
		*prefix = atoi(slash + 1);
	}
	if (inet_pton(AF_INET, text, &address) != 1) {
		fprintf(stderr, "%s is no IPv4 address\n", text);
		exit(2);
	}
	return address;
}

#endif
