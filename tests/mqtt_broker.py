"""A broker of MQTT 3.1.1 in this process, as much of it as somebody needs who publishes with QoS 1."""

import socket
import struct
import threading
from contextlib import suppress

CONNECT, PUBLISH, PING = 1, 3, 12


class Broker:
    """Takes messages; `mute` leaves them without acknowledgement, and `users` (name to password) lets only these in."""

    def __init__(self, users=None, port=0, tls=None):
        self.messages, self.users, self.mute, self.connections = [], users, False, 0
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port, self.tls, self.links = self.listening.getsockname()[1], tls, []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self):
        while True:
            try:
                link, _ = self.listening.accept()
                if self.tls:
                    link = self.tls.wrap_socket(link, server_side=True)
            except OSError:
                if self.listening.fileno() < 0:
                    return
                continue
            self.links.append(link)
            self.threads.append(threading.Thread(target=self.serve, args=(link,)))
            self.threads[-1].start()

    def serve(self, link):
        with link, link.makefile("rb") as stream:
            try:
                while kind := stream.read(1):
                    size, shift = 0, 0
                    while (byte := stream.read(1)[0]) & 128:
                        size, shift = size | (byte & 127) << shift, shift + 7
                    self.answer(link, kind[0], stream.read(size | byte << shift))
            except (OSError, IndexError, ValueError):
                pass

    def answer(self, link, kind, body):
        if kind >> 4 == CONNECT:
            self.connections += 1
            assert body[:7] == b"\0\4MQTT\4"
            fields, rest = [], body[10:]
            while rest:
                size = struct.unpack(">H", rest[:2])[0]
                fields.append(rest[2 : 2 + size].decode())
                rest = rest[2 + size :]
            let_in = self.users is None or (body[7] & 0xC0 == 0xC0 and self.users.get(fields[-2]) == fields[-1])
            link.sendall(bytes([0x20, 2, 0, 0 if let_in else 5]))
        elif kind >> 4 == PUBLISH:
            assert kind >> 1 & 3 == 1  # QoS
            end = 2 + struct.unpack(">H", body[:2])[0]
            self.messages.append((body[2:end].decode(), body[end + 2 :]))
            if not self.mute:
                link.sendall(bytes([0x40, 2]) + body[end : end + 2])
        elif kind >> 4 == PING:
            link.sendall(bytes([0xD0, 0]))

    def close(self):
        if self.listening.fileno() < 0:
            return
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for link in self.links:
            with suppress(OSError):
                # A TLS link's own shutdown drops its cipher at once, and what is still to be read comes as it was sent.
                socket.socket.shutdown(link, socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(30)
