import signal
import subprocess
import sys
import threading
import time

import pytest

from inference import bounded as bounded_module
from inference import template_sandbox
from inference.bounded import LimitExceeded, bounded
from inference.template_sandbox import Template, TemplateFailure
from tests.conftest import ROOT

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}"
LAUGHS = "{% set ns = namespace(x=['lol']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
AGAIN = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}"


def render(source: str, *contents: str) -> str:
    return Template(source).render([{"role": "user", "content": content} for content in contents or ["x"]])


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(template_sandbox, "SECONDS", 0.2)


@pytest.mark.parametrize(
    "source",
    [
        LOOPS,
        "{% set c = cycler(1, 2) %}{% for i in range(99999) %}{% for j in range(99999) %}{% set x = c.next() %}"
        "{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        LAUGHS + "{{ ns.x | upper | length }}",
    ],
)
def test_one_that_never_ends_is_ended(impatient, source):
    started = time.process_time()
    with pytest.raises(TemplateFailure, match=r"not done after 0\.2 seconds"):
        render(source)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("source", [LOOPS, AGAIN + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"])
def test_in_another_thread_too(impatient, source):
    failures = []

    def run():
        try:
            render(source)
        except TemplateFailure as failure:
            failures.append(str(failure))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(failures) == 1


@pytest.mark.parametrize(
    "expression",
    [
        "'a' * 10**9",
        "('a' * 10**6) * 10**4",
        "[1] * 10**9",
        "10 ** (10 ** 8)",
        "(10 ** 4000) * (10 ** 4000)",
        "'a'.center(10**9)",
        "'a'['ljust'](10**9)",
        "('a' | attr('rjust'))(10**9)",
        "'a' | center(10**9)",
        "['a'] | map('center', 10**9) | list",
        "(['a'] | map(attribute='zfill') | first)(10**9)",
        "'{:1000000000}'.format(1)",
        "'{:{w}}'.format(1, w=10**9)",
        "'{:{}}'.format('x', '1000000000')",
        "'{x:1000000000}'.format_map({'x': 1})",
        "'%1000000000d' % 1",
        "'%*d' % (10**9, 1)",
        "'%1000000000d' | format(1)",
        "('%999d' * 100000) % ((1,) * 100000)",
        "('a' * 10**6).replace('', 'b' * 10**6)",
        "('a' * 10**6) | replace('a', 'b' * 10**6)",
        "('a' * 10**6).join(range(99999) | map('string'))",
        "range(99999) | join('a' * 10**6)",
        "['a' * 10**6, 'b' * 10**6, 'c' * 10**6] * 3 | join",
        "('\\n' * 10**6) | indent(10**6)",
        "[1] | tojson(indent=10**9)",
        "([[1] * 10**6] * 99999) | sum(start=[])",
        "[1] | batch(10**9, 'x') | list",
        "[1] | slice(10**9) | list",
        "5 | round(-10**9)",
        "(5).to_bytes(10**9, 'big')",
        "'\\t'.expandtabs(10**9)",
        "range(10**9) | list",
        "lipsum(10**6)",
        "strftime_now('%Y' * 10**5)",
    ],
)
def test_what_makes_very_much_of_little_is_refused(expression):
    started = time.process_time()
    with pytest.raises(TemplateFailure) as caught:
        render("{{ (" + expression + ") | length }}")
    assert time.process_time() - started < 1
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        AGAIN + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        AGAIN + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        AGAIN + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}" + AGAIN + "{% set ns.x = f(ns.x) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        LAUGHS + "{{ ns.x }}",
        LAUGHS + "{{ ns.x ~ '' }}",
        LAUGHS + "{{ ns.x | string }}",
        LAUGHS + "{{ ns.x | tojson }}",
        LAUGHS + "{{ '%s' % ns.x }}",
        LAUGHS + "{{ '{}'.format(ns.x) }}",
        LAUGHS + "{{ [ns.x] | join }}",
    ],
)
def test_what_grows_step_by_step_is_ended(source):
    with pytest.raises(TemplateFailure, match=r"more than 4,194,3.. characters"):
        render(source)


@pytest.mark.skipif(not bounded_module.STATM.exists(), reason="needs /proc")
def test_what_keeps_much_in_small_portions_is_ended(monkeypatch):
    monkeypatch.setattr(template_sandbox, "MEMORY_BYTES", 64 * 2**20)
    with pytest.raises(TemplateFailure, match="more than 64 MB of memory"):
        render(
            "{% set a = 'a' * 4000000 %}{% set ns = namespace(x=[]) %}"
            "{% for i in range(999) %}{% set ns.x = ns.x + [a[i:]] %}{% endfor %}"
        )


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "+".join("1" * 20000) + " }}",
        "{% if 1 %}" * 300 + "{% endif %}" * 300,
    ],
)
def test_deep_recursion_is_a_sentence(source):
    with pytest.raises(TemplateFailure, match="nested too deeply, or calls itself without end"):
        render(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for a in [1] %}" * 50 + "{% endfor %}" * 50, "too many statically nested blocks"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' < 1 }}", "not supported"),
        ("{{ messages.foo.bar }}", "no attribute 'foo'"),
        ("{{ raise_exception('no\nway ' * 1000) }}", "^no way no .*…$"),
        ("x" * 300_000, "300,000 characters"),
        ("{% for %}", "Expected"),
    ],
)
def test_every_other_failure_is_a_sentence(source, said):
    with pytest.raises(TemplateFailure, match=said) as caught:
        render(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300


def test_ordinary_templates_notice_nothing():
    assert render("{{ messages[0].content.replace('a', 'bb') | replace('b', 'c') }}", "aa") == "cccc"
    assert render("{{ ['a', 1] | join('-') }} {{ [{'a': 1}, {'a': 2}] | join(',', attribute='a') }}") == "a-1 1,2"
    assert render("{{ 'a\nb' | indent(2) }}|{{ 'x' | center(3) }}|{{ [1, 2.5] | sum }}") == "a\n  b| x |3.5"
    assert render("{{ '%s=%05.1f' % ('a', 2) }} {{ '{:>3}{k}'.format(1, k='é') }}") == "a=002.0   1é"
    assert render("{{ '%s' | format(3) }} {{ 'a' ~ 1 ~ none ~ missing }} {{ 2.345 | round(1) }}") == "3 a1None 2.3"
    assert render("{{ ([1] + [2]) | tojson }} {{ (1, 2) | list }} {{ 2 ** 10 * 3 % 7 }}") == "[1, 2] [1, 2] 6"
    assert render("{{ range(5) | batch(2) | list | length }}{{ 'a b'.split() | string }}") == "3['a', 'b']"
    assert render("{{ messages | tojson(indent=2) }}", "é").startswith('[\n  {\n    "role"')


def test_a_long_conversation_may_become_a_long_prompt():
    source = (
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.content %}{% endfor %}{{ ns.x }}"
    )
    contents = ["x" * 1_000_000] * 8
    assert render(source, *contents) == "".join(contents)


def test_the_watch_ends_with_the_body():
    with bounded(0.1, 2**40):
        pass
    deadline = time.process_time() + 0.3
    while time.process_time() < deadline:
        pass
    with pytest.raises(LimitExceeded), bounded(0.1, 2**40):
        while True:
            pass


def test_one_step_that_never_ends_ends_a_process_that_has_nothing_to_lose():
    code = (
        "from inference import bounded, template_sandbox\n"
        "bounded.dies_when_stuck, template_sandbox.SECONDS = True, 0.1\n"
        f"t = template_sandbox.Template({LAUGHS + '{% set a = ns.x %}' + LAUGHS + '{{ a == ns.x }}'!r})\n"
        "print(template_sandbox.Template('fine').render([]), flush=True)\n"
        "t.render([])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("fine\n", "")
    assert done.returncode == -signal.SIGVTALRM
