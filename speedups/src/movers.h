/*
 * The two directions between a TAP and a socket, without Python.
 *
 * Nothing here waits, and nothing is believed that stands in a frame: any bytes lead to
 * frames that go out or drops that are counted.
 */
#ifndef MOVERS_H
#define MOVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Errors of a sink that cost a frame and not the sink. */
#define MAX_CAUSES 32

/* A frame from the TAP that cannot be what it says it is: never a system call's error. */
#define MALFORMED EBADMSG

enum state {
	EMPTY, /* nothing waits in the source */
	MORE,  /* the budget is used up */
	FULL,  /* frames wait here for room in the sink */
	SOURCE_BROKEN,
	SINK_BROKEN,
};

/* Frames that were lost for one reason. */
struct cause {
	int error;
	size_t count;
};

/* What one call came to. */
struct tally {
	size_t frames;
	size_t bytes;
	int error; /* why an end is broken */
	bool dropped;
	size_t causes;
	struct cause cause[MAX_CAUSES];
};

/* Count frames that were lost; false if it is none of the causes, so the end is broken. */
bool count_drop(struct tally *tally, int error, size_t count);

/* A frame from the TAP that goes out as one or as several. */
struct cut {
	uint32_t at; /* in the data */
	uint32_t length;
	uint16_t size; /* payload of each; 0: as it is */
	uint16_t headers;
	uint16_t ip;
	uint16_t tcp;
	uint16_t pseudo; /* sum of the pseudo header, without the length */
};

/* Frames on their way out, and how far we are. */
struct queue {
	unsigned char *data;
	struct cut *cuts;
	size_t count;
	size_t used; /* of the data */
	size_t next;
	uint32_t done; /* payload of the next one that is gone already */
};

struct sender {
	int tap;
	int socket;
	struct queue pending; /* its own, freed when everything is gone */
	struct tally tally;
};

enum state sender_move(struct sender *sender, size_t budget);
size_t sender_pending(const struct sender *sender);
void sender_clear(struct sender *sender);

struct receiver {
	int socket;
	int tap;
	size_t size;   /* of the longest frame */
	bool has_end; /* an empty message is the end */
	struct tally tally;
};

enum state receiver_move(struct receiver *receiver, size_t budget);

/* The longest frame of a TAP: 64 KiB and a header. */
#define LONGEST_FRAME (65536 + 18)

/*
 * Room for one wake-up, of each thread: nobody keeps anything in it between two. So a
 * thousand stacks cost no more than one.
 */
#define ROOM (256 * 1024)
extern _Thread_local unsigned char room[ROOM];

#endif
