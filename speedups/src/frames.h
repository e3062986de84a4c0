/*
 * Frames, as both directions see them: numbers, sums, and the header of a TAP.
 *
 * Source: <linux/virtio_net.h>, Linux 6.1; RFC 791, RFC 8200, RFC 9293, RFC 1071.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* struct virtio_net_hdr, in the machine's byte order. */
struct offload {
	uint8_t flags;
	uint8_t kind;
	uint16_t headers; /* their length */
	uint16_t size;	  /* payload of each part */
	uint16_t start;	  /* of what is summed up */
	uint16_t place;	  /* of the sum, from there */
};

#define OFFLOAD_SIZE 10
_Static_assert(sizeof(struct offload) == OFFLOAD_SIZE, "as the kernel has it");

#define NEEDS_CHECKSUM 1 /* VIRTIO_NET_HDR_F_NEEDS_CSUM */
#define JOINED_TCPV4 1	 /* VIRTIO_NET_HDR_GSO_TCPV4, and so on */
#define JOINED_TCPV6 4
#define JOINED_ECN 0x80

#define ETHERNET 14
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86DD
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_SERVICE_VLAN 0x88A8
#define TCP 6

/* Where things are in a TCP header. */
#define TCP_SEQUENCE 4
#define TCP_ACKNOWLEDGMENT 8
#define TCP_OFFSET 12
#define TCP_FLAGS 13
#define TCP_WINDOW 14
#define TCP_CHECKSUM 16
#define TCP_OPTIONS 20

#define FIN 0x01
#define PSH 0x08
#define ACK 0x10
#define CWR 0x80

static inline uint16_t get16(const unsigned char *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t get32(const unsigned char *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static inline void put16(unsigned char *at, uint32_t number)
{
	at[0] = (unsigned char)(number >> 8);
	at[1] = (unsigned char)number;
}

static inline void put32(unsigned char *at, uint32_t number)
{
	put16(at, number >> 16);
	put16(at + 2, number);
}

/*
 * Sums are of words as they are in memory: byte order does not matter to RFC 1071, as
 * long as numbers that go in and sums that come out are taken to the network's.
 */
static inline uint16_t network16(uint32_t number)
{
	unsigned char bytes[2];
	uint16_t result;

	put16(bytes, number);
	memcpy(&result, bytes, sizeof result);
	return result;
}

/* Add up bytes; at most 64 KiB, so nothing can be carried out of 64 bits. */
static inline uint64_t sum(const unsigned char *data, size_t size)
{
	uint64_t total = 0;
	uint32_t word;
	uint16_t half;
	size_t at = 0;

	for (; at + sizeof word <= size; at += sizeof word) {
		memcpy(&word, data + at, sizeof word);
		total += word;
	}
	if (at + sizeof half <= size) {
		memcpy(&half, data + at, sizeof half);
		total += half;
		at += sizeof half;
	}
	if (at < size) {
		unsigned char last[2] = { data[at], 0 };

		memcpy(&half, last, sizeof half);
		total += half;
	}
	return total;
}

static inline uint16_t fold(uint64_t total)
{
	total = (total >> 32) + (total & 0xFFFFFFFF);
	total = (total >> 32) + (total & 0xFFFFFFFF);
	total = (total >> 16) + (total & 0xFFFF);
	total = (total >> 16) + (total & 0xFFFF);
	total = (total >> 16) + (total & 0xFFFF);
	return (uint16_t)total;
}

static inline void put_sum(unsigned char *at, uint64_t total)
{
	uint16_t folded = fold(total);

	memcpy(at, &folded, sizeof folded);
}

/* A checksum of 0 would mean in UDP that there is none; 0xFFFF is the same number. */
static inline void put_checksum(unsigned char *at, uint64_t total)
{
	uint16_t folded = (uint16_t)~fold(total);

	if (!folded)
		folded = 0xFFFF;
	memcpy(at, &folded, sizeof folded);
}

static inline void put_ipv4_checksum(unsigned char *ip, size_t size)
{
	uint16_t folded;

	put16(ip + 10, 0);
	folded = (uint16_t)~fold(sum(ip, size));
	memcpy(ip + 10, &folded, sizeof folded);
}

/* The pseudo header of TCP in a packet, without the length. */
static inline uint64_t sum_of_pseudo(const unsigned char *ip)
{
	return network16(TCP) +
	       (ip[0] >> 4 == 4 ? sum(ip + 12, 8) : sum(ip + 8, 32));
}

#endif
