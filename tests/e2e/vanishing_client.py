"""A client with calls under way, for a test that kills it: vanishing_client.py PORT CERTIFICATES COUNT starts COUNT
registrations at once, says so in one line, and waits for their answers."""

import pathlib
import sys

import grpc
import harness


def main():
    port, folder, count = int(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    credentials = grpc.ssl_channel_credentials(*((folder / file).read_bytes()
                                                 for file in ("ca.crt", "tls.key", "tls.crt")))
    options = [("grpc.ssl_target_name_override", "identity.nova.svc.cluster.local")]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        client = harness.identity_client(channel)
        calls = [client.Register.future(harness.registration(), timeout=60) for _ in range(count)]
        print("under way", flush=True)
        for call in calls:
            call.result()


if __name__ == "__main__":
    main()
