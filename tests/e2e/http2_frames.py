"""One gRPC call written byte by byte, for what no well-behaved client would send."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def header(name, value):
    """A literal field without indexing (RFC 7541, 6.2.2); both texts shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(address, context, authority, path, timeout, message, limit):
    """Sends one unary call with the given `grpc-timeout`, and returns the kind of frame that ended its stream: HEADERS
    (a status) or RST_STREAM. Raises TimeoutError when nothing does within `limit` seconds, EOFError when the server
    closes."""
    with socket.create_connection(address, limit) as plain:
        with context.wrap_socket(plain, server_hostname=authority) as connection:
            fields = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", authority),
                      ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout)]
            block = b"".join(header(name, value) for name, value in fields)
            body = b"\x00" + struct.pack("!I", len(message)) + message
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block) +
                               frame(DATA, END_STREAM, 1, body))
            received = b""
            while True:
                while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
                    chunk = connection.recv(65536)
                    if not chunk:
                        raise EOFError("the server closed the connection")
                    received += chunk
                length = int.from_bytes(received[:3], "big")
                kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
                payload, received = received[9:9 + length], received[9 + length:]
                if kind == SETTINGS and not flags & ACK:
                    connection.sendall(frame(SETTINGS, ACK, 0, b""))
                if kind == PING and not flags & ACK:
                    connection.sendall(frame(PING, ACK, 0, payload))
                if kind == GOAWAY:
                    raise EOFError(f"the server says GOAWAY: {payload!r}")
                if stream == 1 and (kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM)):
                    return kind
