/* A stack of libvdestack's, as a peer for aioioth's tests.
 *
 * vdestack_echo VNL IPV4 IPV6 serve PORT              TCP echo, one connection at a time
 * vdestack_echo VNL IPV4 IPV6 connect HOST PORT TEXT  send TEXT, print what comes back
 * vdestack_echo VNL IPV4 IPV6 run "/PATH/COMMAND ..." run a command in the stack
 *
 * Addresses have a prefix length. A server says "ready" on standard error when it
 * listens. Ends when standard input ends, or when done.
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vdestack.h>

static struct vdestack *stack;

static void configure(const char *ipv4, const char *ipv6)
{
	char commands[512];

	snprintf(commands, sizeof commands,
		 "/bin/ip link set lo up;"
		 "/bin/ip addr add %s dev vde0;"
		 "/bin/ip addr add %s dev vde0 nodad;"
		 "/bin/ip link set vde0 up", ipv4, ipv6);
	if (vde_stackcmd(stack, commands) != 0)
		errx(1, "cannot configure the stack");
}

/* Waits until fd can be read, or ends the program when standard input ends. */
static void wait_readable(int fd)
{
	struct pollfd both[] = {{.fd = fd, .events = POLLIN},
				{.fd = STDIN_FILENO, .events = POLLIN}};
	char ignored[64];

	do {
		if (poll(both, 2, -1) < 0)
			err(1, "poll");
		if (both[1].revents && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
			vde_delstack(stack);
			exit(0);
		}
	} while (!both[0].revents);
}

static void serve(const char *port)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6,
				       .sin6_port = htons(atoi(port))};
	int listener = vde_msocket(stack, AF_INET6, SOCK_STREAM, 0);

	if (listener < 0 || bind(listener, (void *)&address, sizeof address) < 0 ||
	    listen(listener, 5) < 0)
		err(1, "listen");
	fprintf(stderr, "ready\n");
	for (;;) {
		char data[4096];
		ssize_t length;
		int connection;

		wait_readable(listener);
		connection = accept(listener, NULL, NULL);
		if (connection < 0)
			err(1, "accept");
		while (wait_readable(connection),
		       (length = read(connection, data, sizeof data)) > 0)
			if (write(connection, data, length) != length)
				err(1, "write");
		close(connection);
	}
}

static void connect_and_ask(const char *host, const char *port, const char *text)
{
	struct sockaddr_in ipv4 = {.sin_family = AF_INET,
				   .sin_port = htons(atoi(port))};
	struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6,
				    .sin6_port = htons(atoi(port))};
	int four = inet_pton(AF_INET, host, &ipv4.sin_addr) == 1;
	int connection = vde_msocket(stack, four ? AF_INET : AF_INET6, SOCK_STREAM, 0);
	char data[4096];
	ssize_t length;

	if (!four && inet_pton(AF_INET6, host, &ipv6.sin6_addr) != 1)
		errx(1, "%s is no address", host);
	if (four ? connect(connection, (void *)&ipv4, sizeof ipv4)
		 : connect(connection, (void *)&ipv6, sizeof ipv6))
		err(1, "connect to %s", host);
	if (write(connection, text, strlen(text)) < 0)
		err(1, "write");
	shutdown(connection, SHUT_WR);
	while (wait_readable(connection),
	       (length = read(connection, data, sizeof data)) > 0)
		fwrite(data, 1, length, stdout);
	close(connection);
}

int main(int argc, char *argv[])
{
	if (argc < 6)
		errx(2, "usage: VNL IPV4 IPV6 serve|connect|run ...");
	stack = vde_addstack(argv[1], NULL);
	if (stack == NULL)
		err(1, "%s", argv[1]);
	configure(argv[2], argv[3]);
	if (strcmp(argv[4], "serve") == 0)
		serve(argv[5]);
	else if (strcmp(argv[4], "connect") == 0 && argc == 8)
		connect_and_ask(argv[5], argv[6], argv[7]);
	else if (strcmp(argv[4], "run") == 0)
		vde_stackcmd(stack, argv[5]);
	vde_delstack(stack);
	return 0;
}
