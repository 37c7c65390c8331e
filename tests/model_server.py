"""An OpenAI-compatible model server for tests; see `servers.py` for how it is started.

It answers arithmetic like `17 + 25`, boxed. Options:

    apis            ["responses", "chat"]: which of the two it speaks
    models          names it lists; the first is the default
    key             the bearer token it wants
    admits          so many at a time; the others get a 429
    retry_after     seconds for the Retry-After of a 429
    latency         seconds before a reply
    rate, burst     token bucket: so many requests a second, so many at once
    calls           tools that it calls in turn, if they are offered: [name, {argument: n}], n the prompt's nth number
    tool            whether it calls the first tool it is offered, with arguments {"text": ...}, before it answers
    think           whether replies reason first
    wrong           share of wrong answers, drawn from the prompt
    fail            {status: share}: other errors, drawn anew each time
    cut             finish for length
    text            what it says instead
    ids             whose token ids chat completions have: "vllm" (the default), "sglang" or "old sglang"; "ignored" for
                    none, "refused" for a 400 that names the fields that ask for them
    gauges          serve /metrics of vLLM: {"cache": share of the cache of a request in flight}
    resources       also serve /seed_session, /verify and tools, by cookies

`GET /stats` tells what was asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import time
from typing import Any

ID_FIELDS = {"return_token_ids", "return_prompt_token_ids", "return_meta_info"}
SUM = re.compile(r"(\d+)\s*\+\s*(\d+)")


class ModelServer:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.in_flight = self.most_in_flight = self.refused = 0
        self.asked: dict[str, int] = {}
        self.last: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.bucket, self.filled = float(options.get("burst", 1)), time.monotonic()
        self.prefixes: set[str] = set()
        self.hits = 0
        self.sessions: dict[str, list[str]] = {}
        self.cookies: list[str] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = request.split(" ")
                fields = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in lines)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                status, value, headers = await self.respond(method, path, fields, body)
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{told}\r\n".encode()
                    + data
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def respond(
        self, method: str, path: str, fields: dict[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        self.asked[path] = self.asked.get(path, 0) + 1
        if path == "/stats":
            stats = {name: value for name, value in vars(self).items() if name not in ("options", "prefixes")}
            stats["prompts"] = len(self.prefixes)
            return 200, stats, {}
        if "gauges" in self.options and path == "/metrics":
            return 200, self.metrics().encode(), {}
        if "resources" in self.options and path in ("/seed_session", "/verify", "/shout"):
            return self.resources(path, fields, json.loads(body))
        if self.options.get("key") and fields.get("authorization") != f"Bearer {self.options['key']}":
            return error(401, "Incorrect API key provided", "invalid_api_key")
        models = self.options.get("models", ["test-model"])
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}, {}
        apis = self.options.get("apis", ["responses", "chat"])
        speaks = {"/v1/responses": "responses", "/v1/chat/completions": "chat"}.get(path)
        if speaks is None or speaks not in apis or method != "POST":
            return error(404, "Not Found", "not_found")
        params = json.loads(body)
        self.last = [*self.last[-20:], params]
        self.headers = [*self.headers[-20:], fields]
        if params.get("model") not in models:
            return error(404, f"The model {params.get('model')!r} does not exist", "model_not_found")
        if self.options.get("ids") == "refused" and (names := sorted(params.keys() & ID_FIELDS)):
            return error(400, f"Unrecognized request arguments supplied: {', '.join(names)}", "invalid_request_error")
        return await self.limited(speaks, params)

    def metrics(self) -> str:
        cache = min(1.0, self.in_flight * self.options["gauges"]["cache"])
        values = {"num_requests_running": self.in_flight, "num_requests_waiting": 0, "kv_cache_usage_perc": cache}
        lines = [f'vllm:{name}{{engine="0",model_name="test-model"}} {value}' for name, value in values.items()]
        return "\n".join([*lines, 'vllm:num_preemptions_total{engine="0"} 0.0', ""])

    async def limited(self, speaks: str, params: Any) -> tuple[int, Any, dict[str, str]]:
        retry = {"retry-after": str(self.options["retry_after"])} if "retry_after" in self.options else {}
        if self.in_flight >= self.options.get("admits", float("inf")) or not self.admitted_by_rate():
            self.refused += 1
            return error(429, "Rate limit reached", "rate_limit_exceeded", retry)
        for status, share in self.options.get("fail", {}).items():
            if random.random() < share:
                return error(int(status), "made up by the test server", "server_error")
        self.times = [*self.times[-5000:], time.monotonic()]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.options.get("latency", 0))
        finally:
            self.in_flight -= 1
        return 200, (self.response if speaks == "responses" else self.completion)(params), {}

    def admitted_by_rate(self) -> bool:
        if "rate" not in self.options:
            return True
        now = time.monotonic()
        self.bucket = min(float(self.options.get("burst", 1)), self.bucket + (now - self.filled) * self.options["rate"])
        self.filled = now
        if self.bucket < 1:
            return False
        self.bucket -= 1
        return True

    def answer(self, prompt: str) -> str:
        if "text" in self.options:
            return str(self.options["text"])
        found = SUM.search(prompt)
        if not found:
            return "I do not know."
        total = int(found[1]) + int(found[2])
        draw = int(hashlib.sha256(f"{prompt}{random.random()}".encode()).hexdigest()[:8], 16) / 16**8
        return f"So it is \\boxed{{{total + (draw < self.options.get('wrong', 0))}}}."

    def next_call(self, prompt: str, offered: list[str], made: int) -> dict[str, str] | None:
        calls = [(name, arguments) for name, arguments in self.options.get("calls", []) if name in offered]
        if made >= len(calls):
            return None
        name, arguments = calls[made]
        numbers = [int(number) for number in re.findall(r"\d+", prompt)]
        return {"name": name, "arguments": json.dumps({key: numbers[n] for key, n in arguments.items()})}

    def usage(self, prompt: str, text: str) -> tuple[int, int, int]:
        cached = len(prompt) // 8 if prompt in self.prefixes else 0
        self.hits += bool(cached)
        self.prefixes.add(prompt)
        return max(1, len(prompt) // 4), max(1, len(text) // 4), cached

    def response(self, params: Any) -> Any:
        items = params["input"]
        items = [{"role": "user", "content": items}] if isinstance(items, str) else items
        prompt = next(_text(item["content"]) for item in reversed(items) if item.get("role") == "user")
        called = [item for item in items if item.get("type") == "function_call_output"]
        output = []
        if self.options.get("think"):
            output.append({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]})
        if call := self.next_call(prompt, [tool["name"] for tool in params.get("tools") or []], len(called)):
            number = len(called) + 1
            made = {"id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
            output.append({"type": "function_call", **made, **call})
        elif self.options.get("tool") and params.get("tools") and not called:
            output.append(
                {
                    "id": "fc_1",
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": params["tools"][0]["name"],
                    "arguments": json.dumps({"text": prompt}) if self.options["tool"] != "garbled" else "{oops",
                    "status": "completed",
                }
            )
        else:
            text = (f"The tool says {called[-1]['output']}. " if called else "") + self.answer(prompt)
            content = [{"type": "output_text", "text": text, "annotations": []}]
            output.append(
                {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
            )
        read, wrote, cached = self.usage(prompt, str(output))
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": params["model"],
            "status": "incomplete" if self.options.get("cut") else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if self.options.get("cut") else None,
            "error": None,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": params.get("tools") or [],
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
                "output_tokens": wrote,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + wrote,
            },
        }

    def completion(self, params: Any) -> Any:
        messages = params["messages"]
        prompt = next(_text(message["content"]) for message in reversed(messages) if message["role"] == "user")
        called = [message for message in messages if message["role"] == "tool"]
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if self.options.get("think"):
            message["reasoning_content"] = "Hm."
        offered = [tool["function"]["name"] for tool in params.get("tools") or []]
        if call := self.next_call(prompt, offered, len(called)):
            message["tool_calls"] = [{"id": f"call_{len(called) + 1}", "type": "function", "function": call}]
        elif self.options.get("tool") and params.get("tools") and not called:
            function = {"name": params["tools"][0]["function"]["name"], "arguments": json.dumps({"text": prompt})}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        else:
            message["content"] = (f"The tool says {called[-1]['content']}. " if called else "") + self.answer(prompt)
        choice: dict[str, Any] = {"index": 0, "message": message}
        choice["finish_reason"] = (
            "length" if self.options.get("cut") else "tool_calls" if message.get("tool_calls") else "stop"
        )
        read, wrote, cached = self.usage(prompt, str(message))
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": params["model"],
            "choices": [choice],
            **self.token_ids(params, choice),
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": wrote,
                "total_tokens": read + wrote,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        }

    def token_ids(self, params: Any, choice: dict[str, Any]) -> dict[str, Any]:
        """Add what the server has of ids and log probabilities to the choice, and return the rest, of the completion."""
        ids = self.options.get("ids", "vllm")
        if params.get("logprobs"):
            name = "token_id:7" if params.get("return_tokens_as_token_ids") else "So"
            token = {"token": name, "logprob": -0.5, "bytes": [83, 111], "top_logprobs": []}
            choice["logprobs"] = {"content": [token], "refusal": None}
        if params.get("return_token_ids") and ids in ("vllm", "sglang"):
            choice["token_ids"] = [7]
        prompt = {"prompt_token_ids": [1, 2, 3]}
        if ids == "vllm":
            return prompt if params.get("return_token_ids") else {}
        if "sglang" not in ids:
            return {}
        if params.get("return_prompt_token_ids") or "token_ids" in choice:
            choice |= prompt
        if params.get("return_meta_info"):
            choice["meta_info"] = {"output_token_logprobs": [[-0.5, 7, None]], "weight_version": "step-4"}
        return {"metadata": {"weight_version": "step-4"}}

    def resources(self, path: str, fields: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        """A session ends with its last cookie: each reply sets a new one."""
        session, _, step = fields.get("cookie", "").removeprefix("s=").partition(".")
        self.cookies.append(fields.get("cookie", ""))
        if path == "/seed_session":
            session, step = f"n{len(self.sessions)}", "-1"
            self.sessions[session] = []
        elif session not in self.sessions or int(step) != len(self.sessions[session]) - 1:
            return 400, {"detail": f"no such session: {fields.get('cookie')}"}, {}
        self.sessions[session].append(path)
        headers = {"set-cookie": f"s={session}.{len(self.sessions[session]) - 1}; Path=/; HttpOnly"}
        if path == "/shout":
            return 200, json.dumps(body["text"].upper()).encode(), headers
        if path == "/verify":
            called = "/shout" in self.sessions[session]
            return 200, {**body, "reward": float(called), "calls": self.sessions[session]}, headers
        return 200, {}, headers


def _text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def error(
    status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    return status, {"error": {"message": message, "type": code, "param": None, "code": code}}, headers or {}
