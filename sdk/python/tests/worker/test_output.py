"""The output of attempts, from the task to the leader."""

from __future__ import annotations

from triarch.worker.output import Output, OutputBatch


def _take(output: Output) -> OutputBatch:
    sending = output.take(1 << 20)
    assert sending is not None
    return sending


def _chunks(sending: OutputBatch) -> list[tuple[int, str, bool]]:
    return [(piece.offset, piece.text.decode(), gap) for piece, gap in zip(sending.pieces, sending.gaps, strict=True)]


def _ends(stdout: int, stderr: int = 0) -> dict[str, int]:
    return {"stdout": stdout, "stderr": stderr}


def test_output_that_the_leader_has_is_not_sent_again() -> None:
    output = Output()
    output.write("stdout", "one")
    first = _take(output)
    assert _chunks(first) == [(0, "one", False)]
    # The answer was lost.
    again = _take(output)
    assert _chunks(again) == _chunks(first)
    output.write("stdout", "two")
    output.settle(again, _ends(3))
    following = _take(output)
    assert _chunks(following) == [(3, "two", False)]
    output.settle(following, _ends(6))
    assert not output.has_unsent
    assert output.take(1 << 20) is None


def test_a_leader_that_lacks_the_beginning_is_sent_it_once() -> None:
    output = Output()
    output.write("stdout", "one")
    output.settle(_take(output), _ends(3))
    output.write("stdout", "two")
    output.settle(_take(output), _ends(0))
    again = _take(output)
    assert _chunks(again) == [(0, "onetwo", False)]
    # The leader has no space for the output. The following output is sent as usual.
    output.settle(again, _ends(0))
    output.write("stdout", "three")
    rest = _take(output)
    assert _chunks(rest) == [(6, "three", True)]
    output.settle(rest, _ends(11))
    output.write("stdout", "four")
    assert _chunks(_take(output)) == [(11, "four", False)]


def test_a_new_leader_gets_the_kept_output_and_the_size_of_the_gap() -> None:
    output = Output(8 << 10)
    output.write("stderr", "warning")
    output.write("stdout", "x" * (20 << 10))
    output.settle(_take(output), _ends(20 << 10, 7))
    output.send_again()
    offset, text, gap = _chunks(_take(output))[0]
    assert gap
    assert offset > 0
    assert offset + len(text) <= 20 << 10


def test_unwanted_output_is_not_sent() -> None:
    output = Output()
    output.write("stdout", "one")
    output.settle(_take(output), None)
    output.write("stdout", "two")
    assert not output.has_unsent
    output.send_again()
    assert _chunks(_take(output)) == [(0, "onetwo", False)]


def test_characters_are_never_cut_and_all_is_bounded() -> None:
    output = Output(64 << 10)
    text = "€" * 50_000
    output.write("stdout", text)
    sending = output.take(32 << 10)
    assert sending is not None
    assert sending.size <= 32 << 10
    assert all(set(piece.text.decode()) == {"€"} for piece in sending.pieces)
    output.settle(sending, _ends(sending.upto["stdout"]))
    rest = _take(output)
    assert rest.pieces[-1].end == len(text.encode())


def test_the_streams_keep_their_order() -> None:
    output = Output()
    output.write("stdout", "a")
    output.write("stderr", "b")
    output.write("stdout", "c")
    assert [(piece.stream, piece.text) for piece in _take(output).pieces] == [
        ("stdout", b"a"),
        ("stderr", b"b"),
        ("stdout", b"c"),
    ]
