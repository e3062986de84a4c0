/*
 * From a TAP to a socket that takes whole frames.
 *
 * A TAP that may leave work to us (TUNSETOFFLOAD) gives long frames, each for many of a
 * connection, and checksums that are begun. Here they are cut into the frames that go
 * on the wire: of each the headers are written anew, the payload is sent from where it
 * is, and one system call takes many.
 *
 * Source: <linux/if_tun.h>, <linux/virtio_net.h>, Linux 6.1; sendmmsg(2); RFC 791,
 * RFC 8200, RFC 9293, RFC 3168.
 */
#define _GNU_SOURCE
#include "movers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"

/* Frames for one system call: the time for each does not get shorter beyond. */
#define WINDOW 64

#define MAX_TAGS 2

/* With two VLAN tags, all options, and some of IPv6's extension headers. */
#define MAX_HEADERS 256

#define MAX_CUTS 64

/* Send when so many frames wait, so that others may begin on them. */
#define ENOUGH 32

/*
 * A long frame may be many more than a budget, and is not interrupted if TCP made it:
 * with its smallest segments it has some 1400 parts.
 */
#define PATIENCE 1500

#define EACH_IPV4_LENGTH 2
#define EACH_IPV4_NUMBER 4
#define EACH_IPV6_LENGTH 4

struct position {
	size_t next;
	uint32_t done;
};

static _Thread_local struct cut cuts[MAX_CUTS];
static _Thread_local unsigned char headers[WINDOW][MAX_HEADERS];
static _Thread_local struct iovec parts[WINDOW][2];
static _Thread_local struct mmsghdr messages[WINDOW];
static _Thread_local struct position after[WINDOW];

static size_t find_ip(const unsigned char *frame, size_t length, uint16_t *ethertype)
{
	size_t at = 12;

	for (int tags = 0; tags <= MAX_TAGS && at + 2 <= length; tags++) {
		*ethertype = get16(frame + at);
		at += 2;
		if (*ethertype != ETHERTYPE_VLAN && *ethertype != ETHERTYPE_SERVICE_VLAN)
			return at;
		at += 2;
	}
	*ethertype = 0;
	return length;
}

/* Find out how a frame is cut; false if it cannot be. */
static bool plan(struct cut *cut, const struct offload *offload,
		 const unsigned char *frame, size_t length)
{
	bool partial = offload->flags & NEEDS_CHECKSUM;
	uint8_t kind = offload->kind & (uint8_t)~JOINED_ECN;
	uint16_t ethertype;
	size_t ip, tcp, payload;
	uint64_t pseudo;

	ip = find_ip(frame, length, &ethertype);
	if (kind == JOINED_TCPV4 && ethertype == ETHERTYPE_IPV4) {
		if (ip + IPV4_HEADER > length || frame[ip] >> 4 != 4 || frame[ip + 9] != TCP)
			return false;
		tcp = ip + (size_t)(frame[ip] & 15) * 4;
		if (tcp < ip + IPV4_HEADER || (partial && tcp != offload->start))
			return false;
	} else if (kind == JOINED_TCPV6 && ethertype == ETHERTYPE_IPV6) {
		if (ip + IPV6_HEADER > length || frame[ip] >> 4 != 6)
			return false;
		/* Behind extension headers it is where the kernel says. */
		if (!partial && frame[ip + 6] != TCP)
			return false;
		tcp = partial ? offload->start : ip + IPV6_HEADER;
		if (tcp < ip + IPV6_HEADER)
			return false;
	} else {
		return false;
	}
	if (tcp + TCP_HEADER > length || (partial && offload->place != TCP_CHECKSUM))
		return false;
	payload = tcp + (size_t)(frame[tcp + TCP_OFFSET] >> 4) * 4;
	if (payload < tcp + TCP_HEADER || payload >= length || payload > MAX_HEADERS ||
	    !offload->size)
		return false;
	/*
	 * What the kernel has begun has the length of the whole in it; and addresses that
	 * a routing header may have hidden.
	 */
	if (partial)
		pseudo = sum(frame + tcp + TCP_CHECKSUM, 2) +
			 (uint16_t)~network16((uint32_t)(length - tcp));
	else
		pseudo = sum_of_pseudo(frame + ip);
	cut->size = offload->size;
	cut->headers = (uint16_t)payload;
	cut->ip = (uint16_t)ip;
	cut->tcp = (uint16_t)tcp;
	cut->pseudo = fold(pseudo);
	return true;
}

/* Take over a frame that was read; false if it is nothing that can be sent. */
static bool prepare(struct cut *cut, unsigned char *data, size_t at, size_t length)
{
	unsigned char *frame = data + at + OFFLOAD_SIZE;
	struct offload offload;

	memcpy(&offload, data + at, OFFLOAD_SIZE);
	*cut = (struct cut){ .at = (uint32_t)(at + OFFLOAD_SIZE), .length = (uint32_t)length };
	if (offload.kind)
		return plan(cut, &offload, frame, length);
	if (offload.flags & NEEDS_CHECKSUM) {
		size_t start = offload.start, place = start + offload.place;

		if (place + 2 > length)
			return false;
		put_checksum(frame + place, sum(frame + start, length - start));
	}
	return true;
}

/* Write the headers of one part. */
static void write_headers(unsigned char *to, const struct cut *cut,
			  const unsigned char *frame, uint32_t done, size_t size)
{
	unsigned char *ip = to + cut->ip, *tcp = to + cut->tcp;
	size_t length = cut->headers + size;
	bool last = cut->headers + done + size == cut->length;

	memcpy(to, frame, cut->headers);
	if (ip[0] >> 4 == 4) {
		put16(ip + EACH_IPV4_LENGTH, (uint32_t)(length - cut->ip));
		put16(ip + EACH_IPV4_NUMBER, get16(ip + EACH_IPV4_NUMBER) + done / cut->size);
		put_ipv4_checksum(ip, (size_t)(cut->tcp - cut->ip));
	} else {
		put16(ip + EACH_IPV6_LENGTH, (uint32_t)(length - cut->ip - IPV6_HEADER));
	}
	put32(tcp + TCP_SEQUENCE, get32(tcp + TCP_SEQUENCE) + done);
	if (!last)
		tcp[TCP_FLAGS] &= (unsigned char)~(FIN | PSH);
	if (done)
		tcp[TCP_FLAGS] &= (unsigned char)~CWR;
	put16(tcp + TCP_CHECKSUM, 0);
	put_checksum(tcp + TCP_CHECKSUM,
		     (uint64_t)cut->pseudo + network16((uint32_t)(length - cut->tcp)) +
			     sum(tcp, (size_t)(cut->headers - cut->tcp)) +
			     sum(frame + cut->headers + done, size));
}

/* Make the next messages of a queue; it stays where it is. */
static size_t fill_window(const struct queue *queue)
{
	struct position here = { queue->next, queue->done };
	size_t count = 0;

	for (; count < WINDOW && here.next < queue->count; count++) {
		const struct cut *cut = &queue->cuts[here.next];
		unsigned char *frame = queue->data + cut->at;
		struct iovec *part = parts[count];
		size_t size;

		messages[count].msg_hdr = (struct msghdr){ .msg_iov = part, .msg_iovlen = 1 };
		if (!cut->size) {
			part[0] = (struct iovec){ frame, cut->length };
			here = (struct position){ here.next + 1, 0 };
		} else {
			size = cut->length - cut->headers - here.done;
			if (size > cut->size)
				size = cut->size;
			write_headers(headers[count], cut, frame, here.done, size);
			part[0] = (struct iovec){ headers[count], cut->headers };
			part[1] = (struct iovec){ frame + cut->headers + here.done, size };
			messages[count].msg_hdr.msg_iovlen = 2;
			here.done += (uint32_t)size;
			if (cut->headers + here.done == cut->length)
				here = (struct position){ here.next + 1, 0 };
		}
		after[count] = here;
	}
	return count;
}

static size_t message_size(size_t index)
{
	return parts[index][0].iov_len +
	       (messages[index].msg_hdr.msg_iovlen == 2 ? parts[index][1].iov_len : 0);
}

/* Send what is in a queue; EMPTY if it is empty then. */
static enum state deliver(struct sender *sender, struct queue *queue)
{
	struct tally *tally = &sender->tally;

	while (queue->next < queue->count) {
		size_t count, sent = 0;

		if (tally->frames > PATIENCE)
			return FULL;
		count = fill_window(queue);
		while (sent < count) {
			int done = sendmmsg(sender->socket, messages + sent,
					    (unsigned)(count - sent),
					    MSG_DONTWAIT | MSG_NOSIGNAL);

			if (done < 0) {
				if (errno == EINTR)
					continue;
				if (errno == EAGAIN)
					return FULL;
				if (!count_drop(tally, errno, 1)) {
					tally->error = errno;
					return SINK_BROKEN;
				}
				done = 1;
			} else {
				tally->frames += (size_t)done;
				for (size_t each = sent; each < sent + (size_t)done; each++)
					tally->bytes += message_size(each);
			}
			sent += (size_t)done;
			queue->next = after[sent - 1].next;
			queue->done = after[sent - 1].done;
		}
	}
	return EMPTY;
}

static size_t frames_of(const struct cut *cut)
{
	return cut->size ? (cut->length - cut->headers + cut->size - 1u) / cut->size : 1;
}

static void forget(struct queue *queue)
{
	free(queue->data);
	free(queue->cuts);
	*queue = (struct queue){ 0 };
}

/* Keep what a queue in the room still has, since the room is everybody's. */
static void keep(struct sender *sender, const struct queue *queue)
{
	struct queue *pending = &sender->pending;
	const struct cut *first = &queue->cuts[queue->next];
	size_t count = queue->count - queue->next, used = queue->used - first->at;

	*pending = *queue;
	pending->data = malloc(used);
	pending->cuts = malloc(count * sizeof *first);
	pending->next = 0;
	pending->count = count;
	pending->used = used;
	if (!pending->data || !pending->cuts) {
		forget(pending);
		*pending = *queue;
		count_drop(&sender->tally, ENOBUFS, sender_pending(sender));
		*pending = (struct queue){ 0 };
		return;
	}
	memcpy(pending->data, queue->data + first->at, used);
	memcpy(pending->cuts, first, count * sizeof *first);
	for (size_t each = count; each-- > 0;)
		pending->cuts[each].at -= first->at;
}

/* Read a frame; EMPTY, MORE if there was one, SOURCE_BROKEN. */
static enum state read_one(struct sender *sender, struct queue *queue, size_t *frames)
{
	struct cut *cut = &queue->cuts[queue->count];
	ssize_t length;

	do
		length = read(sender->tap, queue->data + queue->used,
			      OFFLOAD_SIZE + LONGEST_FRAME);
	while (length < 0 && errno == EINTR);
	if (length < 0 && errno == EAGAIN)
		return EMPTY;
	if (length <= 0) {
		sender->tally.error = length ? errno : ECONNRESET;
		return SOURCE_BROKEN;
	}
	if (length <= OFFLOAD_SIZE ||
	    !prepare(cut, queue->data, queue->used, (size_t)length - OFFLOAD_SIZE)) {
		count_drop(&sender->tally, MALFORMED, 1);
		*frames += 1;
		return MORE;
	}
	*frames += frames_of(cut);
	queue->count++;
	/* The next one begins where the processor likes it. */
	queue->used += ((size_t)length + 63) & ~(size_t)63;
	return MORE;
}

enum state sender_move(struct sender *sender, size_t budget)
{
	enum state read = MORE, sent;
	size_t moved = 0;

	if (sender->pending.data) {
		sent = deliver(sender, &sender->pending);
		if (sent != EMPTY)
			return sent;
		forget(&sender->pending);
	}
	while (read == MORE && moved < budget) {
		struct queue queue = { .data = room, .cuts = cuts };
		size_t frames = 0;

		while (read == MORE && moved + frames < budget && frames < ENOUGH &&
		       queue.count < MAX_CUTS &&
		       queue.used + OFFLOAD_SIZE + LONGEST_FRAME <= ROOM)
			read = read_one(sender, &queue, &frames);
		moved += frames;
		sent = deliver(sender, &queue);
		if (sent != EMPTY)
			keep(sender, &queue);
		/* A source that broke is so in the next call as well. */
		if (sent != EMPTY)
			return sent;
	}
	return read;
}

size_t sender_pending(const struct sender *sender)
{
	const struct queue *queue = &sender->pending;
	size_t count = 0;

	for (size_t each = queue->next; each < queue->count; each++)
		count += frames_of(&queue->cuts[each]);
	if (queue->done)
		count -= queue->done / queue->cuts[queue->next].size;
	return count;
}

void sender_clear(struct sender *sender)
{
	forget(&sender->pending);
}
