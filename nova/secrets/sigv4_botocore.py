"""Signs requests as botocore does, for sigv4_test.cc: one JSON object a line in, one Authorization header a line out."""

import datetime
import json
import sys

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def main():
    for line in sys.stdin:
        given = json.loads(line)
        now = datetime.datetime.fromtimestamp(given["time"], datetime.timezone.utc)
        # botocore takes the time from here, under one name or another.
        botocore.auth.get_current_datetime = lambda *_, **__: now.replace(tzinfo=None)
        url = "https://" + given["host"] + given["path"] + ("?" + given["query"] if given["query"] else "")
        request = AWSRequest(given["method"], url, data=given["body"].encode())
        for name, value in given["headers"]:
            request.headers.add_header(name, value)
        credentials = Credentials(given["key_id"], given["key"], given["token"] or None)
        botocore.auth.SigV4Auth(credentials, given["service"], given["region"]).add_auth(request)
        print(request.headers["Authorization"])


if __name__ == "__main__":
    main()
