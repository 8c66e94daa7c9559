/*-------------------------------------------------------------------------
 *
 * address.h
 *	  How many connections there are from where.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_ADDRESS_H
#define GATEWAY_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/peer.h"
#include "gateway/table.h"

typedef struct Address Address;

typedef struct Addresses
{
	Table		by_key;
} Addresses;

extern bool address_enter(const PeerAddress *peer, uint32_t limit,
						  Address **address);
extern void address_leave(Address *address);

#endif							/* GATEWAY_ADDRESS_H */
