"""moto as AWS, with what it lacks of CloudWatch: the SDK for Rust speaks only CBOR to it, and moto only JSON.

usage: aws_with_cbor.py PORT
"""

import gzip
import io
import json
import sys

import cbor2
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

SERVICE = "/service/GraniteServiceVersion20100801/operation/"


class Cbor:
    """Before moto: a question in CBOR becomes one in JSON, and the answer the other way round."""

    def __init__(self, moto):
        self.moto = moto

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if not path.startswith(SERVICE):
            return self.moto(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ.pop("HTTP_CONTENT_ENCODING", "") == "gzip":
            body = gzip.decompress(body)
        question = json.dumps(cbor2.loads(body), default=lambda time: time.timestamp()).encode()
        environ.update(
            {
                "PATH_INFO": "/",
                "RAW_URI": "/",
                "REQUEST_URI": "/",
                "CONTENT_TYPE": "application/x-amz-json-1.0",
                "CONTENT_LENGTH": str(len(question)),
                "HTTP_X_AMZ_TARGET": "GraniteServiceVersion20100801." + path[len(SERVICE) :],
                "wsgi.input": io.BytesIO(question),
            }
        )
        status = []
        answer = b"".join(self.moto(environ, lambda code, *_: status.append(code)))
        answer = cbor2.dumps(json.loads(answer) if answer.strip() else {})
        start_response(
            status[0],
            [
                ("Content-Type", "application/cbor"),
                ("smithy-protocol", "rpc-v2-cbor"),
                ("Content-Length", str(len(answer))),
            ],
        )
        return [answer]


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


run_simple("0.0.0.0", int(sys.argv[1]), Cbor(DomainDispatcherApplication(create_backend_app)), threaded=True, request_handler=Quiet)
