"""Drives a running gateway with the official `openai` client.

    python openai_client.py --base-url http://127.0.0.1:8080/v1

Every check prints one line; the first that fails ends the run with its traceback. The checks hold
for any chat model: they look at shapes, counts and equalities, never at what the model says.
"""

import argparse

import openai

QUESTION = [{"role": "user", "content": "Name three colours of the rainbow."}]


class Gateway:
    def __init__(self, base_url):
        self.client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)
        self.model = self.client.models.list().data[0].id

    def chat(self, **options):
        options = {"messages": QUESTION, "max_tokens": 16, "temperature": 0} | options
        return self.client.chat.completions.create(model=self.model, **options)

    def complete(self, **options):
        options = {"prompt": "The sky is", "max_tokens": 8, "temperature": 0} | options
        return self.client.completions.create(model=self.model, **options)


def models(gateway):
    model = gateway.client.models.retrieve(gateway.model)
    assert model.id == gateway.model and model.object == "model", model
    assert model.model_dump()["max_model_len"] > 0, model


def chat(gateway):
    answer = gateway.chat()
    choice = answer.choices[0]
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion", answer
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason in ("stop", "length"), choice
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert 0 < usage.completion_tokens <= 16, usage
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens, usage


def chat_stream(gateway):
    whole = gateway.chat()
    chunks = list(gateway.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert len({chunk.id for chunk in chunks}) == 1, "one id for all chunks"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content, (text, whole)
    assert chunks[-1].choices == [] and chunks[-1].usage is not None, chunks[-1]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1]), "usage comes last"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason, chunks[-2]


def chat_parts_and_roles(gateway):
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": parts},
    ]
    assert gateway.chat(messages=messages).choices[0].message.content


def chat_logprobs(gateway):
    answer = gateway.chat(logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens, (len(content), answer.usage)
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        # Greedy: the chosen token is the most likely one.
        assert abs(token.top_logprobs[0].logprob - token.logprob) < 1e-3, token
        ranked = [other.logprob for other in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True), token
    data = b"".join(bytes(token.bytes) for token in content)
    assert data.decode(errors="replace").startswith(answer.choices[0].message.content), data


def chat_choices(gateway):
    answer = gateway.chat(n=3, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2], answer
    again = gateway.chat(n=3, temperature=1, seed=7)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [choice.message.content for choice in again.choices], "a seed repeats"
    alone = gateway.chat(temperature=1, seed=7)
    assert alone.choices[0].message.content == texts[0], "n does not change the first choice"
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens, "the prompt counts once"


def chat_stop(gateway):
    text = gateway.chat(max_tokens=24).choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    answer = gateway.chat(max_tokens=24, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)], (answer, text, stop)
    assert answer.choices[0].finish_reason == "stop", answer
    streamed = gateway.chat(max_tokens=24, stop=[stop], stream=True)
    shown = "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
    assert shown == text[: text.index(stop)], (shown, text, stop)


def chat_length(gateway):
    answer = gateway.chat(max_tokens=1, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == 1, answer


def completion(gateway):
    answer = gateway.complete()
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion", answer
    assert answer.choices[0].text, answer
    chunks = list(gateway.complete(stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text, chunks
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason, chunks[-1]


def completion_prompts(gateway):
    one = gateway.complete(prompt="The sky is").choices[0].text
    two = gateway.complete(prompt="Water is").choices[0].text
    both = gateway.complete(prompt=["The sky is", "Water is"])
    assert [choice.text for choice in both.choices] == [one, two], (both, one, two)
    tokens = gateway.client.post(
        gateway.root + "/tokenize", cast_to=object, body={"prompt": "The sky is"}
    )["tokens"]
    assert gateway.complete(prompt=tokens).choices[0].text == one, "token ids are the same prompt"


def completion_echo_scores(gateway):
    answer = gateway.complete(prompt="The sky is blue", echo=True, logprobs=2, max_tokens=0)
    choice = answer.choices[0]
    scores = choice.logprobs
    assert choice.text == "The sky is blue", choice
    assert "".join(scores.tokens) == choice.text, scores
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None, scores
    assert all(score < 0 for score in scores.token_logprobs[1:]), scores
    assert all(2 <= len(top) <= 3 for top in scores.top_logprobs[1:]), scores
    for token, offset in zip(scores.tokens, scores.text_offset):
        assert choice.text[offset:].startswith(token), (token, offset)
    assert answer.usage.completion_tokens == 0, answer


def completion_logprobs(gateway):
    answer = gateway.complete(logprobs=0, echo=True)
    scores = answer.choices[0].logprobs
    assert "".join(scores.tokens).startswith(answer.choices[0].text), answer
    expected = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert len(scores.tokens) == expected, (len(scores.tokens), answer.usage)


def bias_forces_a_token(gateway):
    free = gateway.complete(max_tokens=1, logprobs=2).choices[0]
    tokens = gateway.client.post(
        gateway.root + "/tokenize", cast_to=object, body={"prompt": " purple"}
    )["tokens"]
    forced = gateway.complete(max_tokens=1, logit_bias={str(tokens[0]): 100}).choices[0]
    shown = gateway.client.post(
        gateway.root + "/detokenize", cast_to=object, body={"tokens": tokens[:1]}
    )["prompt"]
    assert forced.text == shown, (free, forced, shown)


def fails(kind, call):
    try:
        call()
    except kind as error:
        assert error.body["message"] and "type" in error.body and "code" in error.body, error.body
        return error
    raise AssertionError(f"expected {kind.__name__}")


def errors(gateway):
    error = fails(openai.BadRequestError, lambda: gateway.chat(temperature=3))
    assert error.param == "temperature" and "3" in error.message, error
    error = fails(openai.BadRequestError, lambda: gateway.chat(messages=[]))
    assert error.param == "messages", error
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    error = fails(openai.BadRequestError, lambda: gateway.chat(tools=[tool]))
    assert error.param == "tools", error
    json_object = {"type": "json_object"}
    error = fails(openai.BadRequestError, lambda: gateway.chat(response_format=json_object))
    assert error.param == "response_format", error
    create = gateway.client.chat.completions.create
    fails(openai.NotFoundError, lambda: create(model="no-such-model", messages=QUESTION))
    long = "word " * 20_000
    error = fails(openai.BadRequestError, lambda: gateway.complete(prompt=long))
    limit = gateway.client.models.retrieve(gateway.model).model_dump()["max_model_len"]
    assert str(limit) in error.message, error


CHECKS = [
    models,
    chat,
    chat_stream,
    chat_parts_and_roles,
    chat_logprobs,
    chat_choices,
    chat_stop,
    chat_length,
    completion,
    completion_prompts,
    completion_echo_scores,
    completion_logprobs,
    bias_forces_a_token,
    errors,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", required=True, help="such as http://127.0.0.1:8080/v1")
    base_url = parser.parse_args().base_url.rstrip("/")
    root = base_url.removesuffix("/v1")
    gateway = Gateway(root + "/v1")
    gateway.root = root
    for check in CHECKS:
        check(gateway)
        print(f"{check.__name__}: ok", flush=True)
    print(f"all {len(CHECKS)} checks passed with openai {openai.__version__}")


if __name__ == "__main__":
    main()
