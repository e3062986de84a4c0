"""What `aioioth.servers.dns` consists of, on a query's way through it.

    udp, tcp         sockets, connections and their limits
    service          bytes to bytes: faults, what waits, what is counted
      faults         what goes wrong on purpose
    answering        a query to its answer, aliases followed; no sockets, no clock
      messages       bytes to a query, an answer to bytes
      access         who may have what
      zones          what is known here, in the order in which it is looked at:
        static       hosts and records (zonefile reads their text)
        hash         hash zones
      cache          what others said before
    forwarding       asking others; _dnsexchange (also the resolver's) asks one

All of them speak of the questions and answers of answer.
"""
