"""Two hundred texts that would run in a page that doesn't escape: each calls ``hit()``."""

from __future__ import annotations

CALL = "window.hit=(window.hit||0)+1"
TAGS = ("img", "svg", "video", "audio", "body", "iframe", "input", "details", "object", "embed")
EVENTS = (
    "onerror",
    "onload",
    "onmouseover",
    "onfocus",
    "ontoggle",
    "onstart",
    "oncanplay",
    "onanimationstart",
)
ENDS = ("td", "code", "pre", "textarea", "title", "style", "script")

HOSTILE: list[str] = [
    *(f"<{tag} src=x autofocus open {event}={CALL}>" for tag in TAGS for event in EVENTS),
    *(f"<script>{CALL}</script>{i}" for i in range(10)),
    *(f"</{tag}><script>{CALL}</script>" for tag in ENDS),
    *(f"'\"><svg/onload={CALL}>{i}" for i in range(10)),
    *(f"[click](javascript:{CALL}) ![x](x){i}" for i in range(5)),
    *(f"<a href=\"javascript:{CALL}\">{i}</a>" for i in range(5)),
    *(f"{{{{constructor.constructor('{CALL}')()}}}}{i}" for i in range(10)),
    *(f"${{{CALL}}}`{CALL}`{i}" for i in range(5)),
    *(f"<style>@import 'data:text/css,*{{background:url(x)}}'</style>{i}" for i in range(5)),
    *(f"<math><mtext><table><mglyph><style><img src=x onerror={CALL}>{i}" for i in range(5)),
    *(f"<noscript><p title=\"</noscript><img src=x onerror={CALL}>\">{i}" for i in range(5)),
    *(f"\u202e<script>{CALL}</script>\u0000\u2028{i}" for i in range(5)),
    *(f"&lt;script&gt;{CALL}&lt;/script&gt;{i}" for i in range(5)),
    *(f"<template><script>{CALL}</script></template>{i}" for i in range(5)),
    *(f"<iframe srcdoc=\"<script>parent.hit=1</script>\"></iframe>{i}" for i in range(5)),
    *(f"<x v-html=\"'<img src=x onerror={CALL}>'\" :onclick=\"{CALL}\">{i}" for i in range(5)),
    *(f"<link rel=stylesheet href=//example.org/{i}><base href=//example.org>" for i in range(5)),
    *(f"<form action=//example.org><button formaction=javascript:{CALL}>{i}" for i in range(5)),
    *(f"<meta http-equiv=refresh content='0;url=javascript:{CALL}'>{i}" for i in range(5)),
    *(f"<plaintext>{i}" for i in range(3)),
    *(f"<!--<img src=\"--><img src=x onerror={CALL}>{i}" for i in range(5)),
    *(f"<svg><animate onbegin={CALL} attributeName=x dur=1s>{i}" for i in range(5)),
]  # fmt: skip
assert len(HOSTILE) >= 200 and len(set(HOSTILE)) == len(HOSTILE)
