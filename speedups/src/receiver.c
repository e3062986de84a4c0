/*
 * From a socket that gives whole frames to a TAP.
 *
 * One system call takes many frames. Segments of a connection that follow one another
 * are written as a single long one, gathered from where they are, and the kernel is told
 * how long each was: a stack pays for each segment, and answers every other one. Nothing
 * is held back until the next call, and the order stays.
 *
 * The kernel does not look at the checksum of what was joined. So a segment is joined
 * only if its own is right; any other goes on as it came, and the kernel finds out.
 *
 * Source: <linux/if_tun.h>, <linux/virtio_net.h>, Linux 6.1; recvmmsg(2); RFC 9293,
 * RFC 791, RFC 8200, RFC 1071.
 */
#define _GNU_SOURCE
#include "movers.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frames.h"

#define WINDOW 64
#define LONGEST_PACKET 65535

/* In front of each frame: the header of a TAP, and then IP where a word may begin. */
#define BEFORE 18

#define MAX_HEADERS (ETHERNET + IPV6_HEADER + 60)
#define FRAGMENTED 0x3FFF

/* A plain segment that others may follow. */
struct segment {
	const unsigned char *frame;
	size_t length;
	size_t tcp;
	size_t start; /* of the payload */
	size_t size;  /* of the payload */
	bool right;   /* its checksums are, as we know */
};

/* Segments that are written together, or a single one. */
struct group {
	struct segment first;
	const unsigned char *last;
	uint32_t sequence; /* of the next one */
	size_t length;	   /* of all */
	size_t count;
	bool over;
};

static _Thread_local struct iovec places[WINDOW];
static _Thread_local struct mmsghdr messages[WINDOW];
static _Thread_local struct iovec parts[WINDOW + 1];
static _Thread_local unsigned char sealed[OFFLOAD_SIZE + MAX_HEADERS];

/*
 * Nothing but ACK, or PSH with it; no IP options, no fragment, nothing behind the
 * packet: false for everything else.
 */
static bool find_segment(struct segment *it, const unsigned char *frame, size_t length)
{
	const unsigned char *ip = frame + ETHERNET, *tcp;

	if (length < ETHERNET + IPV4_HEADER + TCP_HEADER)
		return false;
	if (get16(frame + 12) == ETHERTYPE_IPV4) {
		it->tcp = ETHERNET + IPV4_HEADER;
		if (ip[0] != 0x45 || ip[9] != TCP || get16(ip + 6) & FRAGMENTED ||
		    get16(ip + 2) != length - ETHERNET)
			return false;
	} else if (get16(frame + 12) == ETHERTYPE_IPV6) {
		it->tcp = ETHERNET + IPV6_HEADER;
		if (ip[0] >> 4 != 6 || ip[6] != TCP || length < it->tcp + TCP_HEADER ||
		    get16(ip + 4) != length - it->tcp)
			return false;
	} else {
		return false;
	}
	tcp = frame + it->tcp;
	it->start = it->tcp + (size_t)(tcp[TCP_OFFSET] >> 4) * 4;
	/* With the four bits beside the offset: they are part of the flags by now. */
	if ((tcp[TCP_FLAGS] & ~PSH) != ACK || tcp[TCP_OFFSET] & 15 ||
	    it->start < it->tcp + TCP_HEADER || it->start >= length)
		return false;
	it->frame = frame;
	it->length = length;
	it->size = length - it->start;
	it->right = false;
	return true;
}

static bool is_right(struct segment *it)
{
	const unsigned char *ip = it->frame + ETHERNET;
	size_t length = it->length - it->tcp;

	if (it->right)
		return true;
	if (ip[0] >> 4 == 4 && fold(sum(ip, IPV4_HEADER)) != 0xFFFF)
		return false;
	it->right = fold(sum_of_pseudo(ip) + network16((uint32_t)length) +
			 sum(it->frame + it->tcp, length)) == 0xFFFF;
	return it->right;
}

/* Whether all is the same that has to be. */
static bool follows(const struct group *group, const struct segment *it)
{
	const struct segment *first = &group->first;
	const unsigned char *ours = it->frame, *theirs = first->frame;
	const unsigned char *our_tcp = ours + it->tcp, *their_tcp = theirs + first->tcp;

	if (group->over || it->tcp != first->tcp || it->start != first->start ||
	    it->size > first->size ||
	    group->length + it->size > ETHERNET + LONGEST_PACKET ||
	    get32(our_tcp + TCP_SEQUENCE) != group->sequence)
		return false;
	/* Up to IP's length; what is between that and the addresses; from there on. */
	if (it->tcp == ETHERNET + IPV4_HEADER) {
		if (memcmp(ours, theirs, ETHERNET + 2) ||
		    memcmp(ours + ETHERNET + 6, theirs + ETHERNET + 6, 4) ||
		    memcmp(ours + ETHERNET + 12, theirs + ETHERNET + 12, 12))
			return false;
	} else if (memcmp(ours, theirs, ETHERNET + 4) ||
		   memcmp(ours + ETHERNET + 6, theirs + ETHERNET + 6, 38)) {
		return false;
	}
	return !memcmp(our_tcp + TCP_ACKNOWLEDGMENT, their_tcp + TCP_ACKNOWLEDGMENT, 5) &&
	       !memcmp(our_tcp + TCP_OPTIONS, their_tcp + TCP_OPTIONS,
		       it->start - it->tcp - TCP_HEADER);
}

/* Write headers that are right for all of a group, in front of their payloads. */
static void seal(const struct group *group)
{
	const struct segment *first = &group->first;
	unsigned char *frame = sealed + OFFLOAD_SIZE, *ip = frame + ETHERNET;
	unsigned char *tcp = frame + first->tcp;
	struct offload offload = {
		.flags = NEEDS_CHECKSUM,
		.headers = (uint16_t)first->start,
		.size = (uint16_t)first->size,
		.start = (uint16_t)first->tcp,
		.place = TCP_CHECKSUM,
	};

	memcpy(frame, first->frame, first->start);
	if (first->tcp == ETHERNET + IPV4_HEADER) {
		offload.kind = JOINED_TCPV4;
		put16(ip + 2, (uint32_t)(group->length - ETHERNET));
		put_ipv4_checksum(ip, IPV4_HEADER);
	} else {
		offload.kind = JOINED_TCPV6;
		put16(ip + 4, (uint32_t)(group->length - first->tcp));
	}
	/* The newest window: it may have been told for its own sake. */
	memcpy(tcp + TCP_WINDOW, group->last + first->tcp + TCP_WINDOW, 2);
	tcp[TCP_FLAGS] |= group->last[first->tcp + TCP_FLAGS] & PSH;
	put_sum(tcp + TCP_CHECKSUM,
		sum_of_pseudo(ip) + network16((uint32_t)(group->length - first->tcp)));
	memcpy(sealed, &offload, OFFLOAD_SIZE);
	parts[0] = (struct iovec){ sealed, OFFLOAD_SIZE + first->start };
}

/* Give to the TAP; false if it is broken. */
static bool give(struct receiver *receiver, const struct iovec *from, size_t pieces,
		 size_t frames, size_t bytes)
{
	struct tally *tally = &receiver->tally;
	ssize_t done;

	do
		done = writev(receiver->tap, from, (int)pieces);
	while (done < 0 && errno == EINTR);
	if (done >= 0) {
		tally->frames += frames;
		tally->bytes += bytes;
		return true;
	}
	if (count_drop(tally, errno == EAGAIN ? ENOBUFS : errno, frames))
		return true;
	tally->error = errno;
	return false;
}

/* The header of a TAP in front of it says that it is as it is. */
static bool give_alone(struct receiver *receiver, const unsigned char *frame, size_t length)
{
	struct iovec part = { (void *)(frame - OFFLOAD_SIZE), OFFLOAD_SIZE + length };

	return give(receiver, &part, 1, 1, length);
}

static bool finish(struct receiver *receiver, struct group *group)
{
	const struct segment *first = &group->first;
	size_t count = group->count;

	group->count = 0;
	if (!count)
		return true;
	if (count == 1)
		return give_alone(receiver, first->frame, first->length);
	seal(group);
	return give(receiver, parts, count + 1, count,
		    group->length + (count - 1) * first->start);
}

static void begin(struct group *group, const struct segment *it)
{
	*group = (struct group){
		.first = *it,
		.last = it->frame,
		.sequence = get32(it->frame + it->tcp + TCP_SEQUENCE) + (uint32_t)it->size,
		.length = it->length,
		.count = 1,
		.over = it->frame[it->tcp + TCP_FLAGS] & PSH,
	};
	parts[1] = (struct iovec){ (void *)(it->frame + it->start), it->size };
}

static void append(struct group *group, const struct segment *it)
{
	parts[++group->count] = (struct iovec){ (void *)(it->frame + it->start), it->size };
	group->last = it->frame;
	group->sequence += (uint32_t)it->size;
	group->length += it->size;
	group->over = it->size < group->first.size ||
		      it->frame[it->tcp + TCP_FLAGS] & PSH;
}

/* Take a frame; false if the TAP is broken. */
static bool take(struct receiver *receiver, struct group *group,
		 const unsigned char *frame, size_t length)
{
	struct segment it;
	bool plain = find_segment(&it, frame, length);

	if (plain && group->count && follows(group, &it) && is_right(&group->first) &&
	    is_right(&it)) {
		append(group, &it);
		return true;
	}
	if (!finish(receiver, group))
		return false;
	if (!plain)
		return give_alone(receiver, frame, length);
	begin(group, &it);
	return true;
}

/* Where the frames of one system call go. */
static size_t spread(const struct receiver *receiver, size_t budget)
{
	size_t stride = (BEFORE + receiver->size + 63) & ~(size_t)63;
	size_t count = ROOM / stride;

	if (count > WINDOW)
		count = WINDOW;
	if (count > budget)
		count = budget;
	for (size_t each = 0; each < count; each++) {
		unsigned char *frame = room + each * stride + BEFORE;

		memset(frame - OFFLOAD_SIZE, 0, OFFLOAD_SIZE);
		places[each] = (struct iovec){ frame, receiver->size };
		messages[each].msg_hdr =
			(struct msghdr){ .msg_iov = &places[each], .msg_iovlen = 1 };
	}
	return count;
}

/* Take what one system call brought. */
static enum state take_all(struct receiver *receiver, size_t count)
{
	struct group group = { .count = 0 };
	struct tally *tally = &receiver->tally;

	for (size_t each = 0; each < count; each++) {
		size_t length = messages[each].msg_len;

		if (!length && receiver->has_end) {
			tally->error = ECONNRESET;
			return finish(receiver, &group) ? SOURCE_BROKEN : SINK_BROKEN;
		}
		if (messages[each].msg_hdr.msg_flags & MSG_TRUNC)
			count_drop(tally, EMSGSIZE, 1);
		else if (!take(receiver, &group, places[each].iov_base, length))
			return SINK_BROKEN;
	}
	return finish(receiver, &group) ? MORE : SINK_BROKEN;
}

enum state receiver_move(struct receiver *receiver, size_t budget)
{
	while (budget) {
		size_t wanted = spread(receiver, budget);
		enum state state;
		int count = recvmmsg(receiver->socket, messages, (unsigned)wanted,
				     MSG_DONTWAIT, NULL);

		if (count < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN)
				return EMPTY;
			receiver->tally.error = errno;
			return SOURCE_BROKEN;
		}
		state = take_all(receiver, (size_t)count);
		if (state != MORE)
			return state;
		if ((size_t)count < wanted)
			return EMPTY;
		budget -= (size_t)count;
	}
	return MORE;
}
