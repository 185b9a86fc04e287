# ruff: noqa: INP001  (a program, not a package)
"""Serves one version of one ONNX model by the Open Inference Protocol v2 (REST), on the KServe SDK and ONNX Runtime."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
import uuid
from http import HTTPStatus
from typing import Any, Final

import numpy as np
import onnxruntime
import uvicorn
from bodies import PlainBodies
from tensors import DATATYPES, OUTPUT_DATATYPES, array_of, output_of

# The SDK parses the command line on import and would take its own options from ours.
_ARGV, sys.argv = sys.argv, sys.argv[:1]

from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from kserve import InferRequest, InferResponse, Model, ModelServer  # noqa: E402
from kserve.errors import InferenceError, InvalidInput  # noqa: E402
from kserve.model_server import app as kserve_app  # noqa: E402
from kserve.protocol.dataplane import DataPlane  # noqa: E402
from kserve.protocol.rest.server import RESTServer  # noqa: E402
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # noqa: E402

GRACE_S: Final = 5
KEEP_ALIVE_S: Final = 3600
PLATFORM: Final = "onnxruntime_onnx"
# What ONNX Runtime says of a text pipeline (StringNormalizer) where the system lacks the locale.
LOCALE: Final = re.compile(r"[Ff]ailed to construct locale with name: ?([\w.@-]+\w)")

log = logging.getLogger("tidegate.runtime")


class OnnxModel(Model):
    """One ONNX file; every request runs in a thread, so that health answers while a model thinks."""

    def __init__(self, *, name: str, version: str, path: str, threads: int) -> None:
        super().__init__(name)
        self.version = version
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised too, and told once
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # Inputs with a default in an initializer may be given, and may be left out.
        self._defaults = {tensor.name for tensor in self._session.get_overridable_initializers()}
        inputs = (*self._session.get_inputs(), *self._session.get_overridable_initializers())
        self._inputs = {tensor.name: tensor for tensor in inputs}
        self._outputs = {tensor.name: tensor for tensor in self._session.get_outputs()}
        for tensor in (*self._inputs.values(), *self._outputs.values()):
            if tensor.type not in DATATYPES:
                raise SystemExit(
                    f"tensor {tensor.name!r} has type {tensor.type}, expected one of {', '.join(DATATYPES)}; "
                    "a scikit-learn classifier is converted with the option zipmap=False"
                )
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return names, datatypes and shapes of the inputs; -1 is any length."""
        return [_metadata(tensor, DATATYPES) for tensor in self._inputs.values()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return names, datatypes and shapes of the outputs; -1 is any length."""
        return [_metadata(tensor, OUTPUT_DATATYPES) for tensor in self._outputs.values()]

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:  # noqa: ARG002
        """Return the outputs asked for (default: all); raises InvalidInput (400) or InferenceError (500)."""
        feed = self._feed(payload)
        names = [output.name for output in payload.request_outputs or ()] or list(self._outputs)
        for name in names:
            if name not in self._outputs:
                raise InvalidInput(f"output {name!r} is unknown, expected one of {list(self._outputs)}")
        results = await asyncio.to_thread(self._run, names, feed)
        pairs = zip(names, results, strict=True)
        return InferResponse(
            response_id=payload.id or uuid.uuid4().hex,
            model_name=self.name,
            model_version=self.version,
            infer_outputs=[output_of(name, OUTPUT_DATATYPES[self._outputs[name].type], array) for name, array in pairs],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

    def _feed(self, payload: InferRequest) -> dict[str, np.ndarray[Any, Any]]:
        if not isinstance(payload, InferRequest):
            raise InvalidInput("only the Open Inference Protocol v2 is served")
        given = {tensor.name: tensor for tensor in payload.inputs}
        required = self._inputs.keys() - self._defaults
        if len(given) != len(payload.inputs) or not required <= given.keys() <= self._inputs.keys():
            names = [tensor.name for tensor in payload.inputs]
            optional = f", and at most once each of {sorted(self._defaults)}" if self._defaults else ""
            expected = [name for name in self._inputs if name in required]
            raise InvalidInput(f"inputs are {names}, expected each of {expected} once{optional}")
        return {name: array_of(tensor, self._inputs[name]) for name, tensor in given.items()}

    def _run(self, names: list[str], feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        try:
            return [np.asarray(result) for result in self._session.run(names, feed)]
        except InvalidArgument as error:
            raise InvalidInput(f"the model refused its input: {error}") from error
        except Exception as error:  # ONNX Runtime's exceptions have no common base.
            raise InferenceError(f"the model failed: {type(error).__name__}: {error}") from error


def _metadata(tensor: Any, datatypes: dict[str, str]) -> dict[str, Any]:
    shape = [length if isinstance(length, int) else -1 for length in tensor.shape]
    return {"name": tensor.name, "datatype": datatypes[tensor.type], "shape": shape}


class VersionedDataPlane(DataPlane):
    """The SDK's data plane, which leaves versions and platform out of the metadata."""

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Return the model's metadata with its version."""
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        return {**metadata, "versions": [self.get_model_from_registry(model_name).version], "platform": PLATFORM}


class OneVersion:
    """ASGI middleware: the SDK answers 501 to ``/versions/V``; here V may be our version or its MAJOR.

    It also closes what a server of one fixed version does not offer: loading, unloading and the v1 protocol.
    """

    def __init__(self, app: Any, *, version: str) -> None:
        self._app = app
        self._versions = (version, version.split(".", maxsplit=1)[0])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward, with the version taken out of the path, or answer 404."""
        if scope["type"] == "http":
            path = scope["path"]
            head, found, tail = path.partition("/versions/")
            if found and head.startswith("/v2/models/"):
                version, _, rest = tail.partition("/")
                path = f"{head}/{rest}".rstrip("/") if version in self._versions else ""
            if path != "/metrics" and not (path == "/v2" or path.startswith(("/v2/models", "/v2/health/"))):
                message = f"{scope['path']} is not served; version is {self._versions[0]}"
                await JSONResponse({"error": message}, HTTPStatus.NOT_FOUND)(scope, receive, send)
                return
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


async def refuse_malformed(_request: Any, error: Exception) -> JSONResponse:
    """Answer 400 to a body that is no inference request (the framework's default is 422)."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    found = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in problems[:3])
    return JSONResponse({"error": f"the body is no inference request: {found}"}, HTTPStatus.BAD_REQUEST)


def why_not_loaded(error: Exception) -> str:
    """Return the cause in one line, and first what to do where that is known."""
    cause = " ".join(str(error).split())
    found = LOCALE.search(cause)
    hint = f"install the locale {found.group(1)} (Debian: locales, `locale-gen {found.group(1)}`): " if found else ""
    return f"{hint}the model does not load: {type(error).__name__}: {cause}"


def serve(*, model: OnnxModel, listen: str) -> None:
    """Serve ``model`` on ``unix:/path`` or ``tcp:host:port`` until SIGTERM; nothing else is opened."""
    server = ModelServer(enable_grpc=False, enable_latency_logging=False)
    server.dataplane = VersionedDataPlane(model_registry=server.registered_models)
    server.register_model(model)
    RESTServer("kserve.model_server:app", server.dataplane, server.model_repository_extension, 0).create_application()
    kserve_app.add_exception_handler(RequestValidationError, refuse_malformed)
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # one stack trace a refused request is no log
    kind, _, address = listen.partition(":")
    host, _, port = address.rpartition(":")
    place: dict[str, Any] = {"uds": address} if kind == "unix" else {"host": host, "port": int(port)}
    uvicorn.run(
        OneVersion(PlainBodies(kserve_app), version=model.version),
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,  # longer than the proxy's, so that only the proxy closes
        timeout_graceful_shutdown=GRACE_S,
        **place,
    )


def main() -> None:
    """Load the model, then listen: the socket exists only when the model is loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--version", required=True, help="MAJOR.MINOR.PIPELINE")
    parser.add_argument("--listen", required=True, help="unix:/path or tcp:host:port")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads of ONNX Runtime")
    arguments = parser.parse_args(_ARGV[1:])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        model = OnnxModel(
            name=arguments.model_name, version=arguments.version, path=arguments.model_path, threads=arguments.threads
        )
    except Exception as error:  # noqa: BLE001  (ONNX Runtime's exceptions have no common base)
        # One line that tells the cause: where in the runtime it was raised helps nobody who made the model.
        raise SystemExit(why_not_loaded(error)) from None
    log.info("loaded %s@%s", model.name, model.version)
    serve(model=model, listen=arguments.listen)


if __name__ == "__main__":
    main()
