"""The viewer: a local web page over a workspace, to page through questions, responses, verdicts and drops.

    catalogue.py   which committed files hold which table of which shard
    scan.py        pages by key, shard after shard, until a page is full or its time is up
    filters.py     what a list can be filtered by; a URL's parameters, checked
    overview.py    the funnel, from the books
    questions.py, responses.py, verdicts.py, drops.py    one list each
    question.py    everything about one question; `stillhouse show` asks the same queries
    excerpt.py     a line of a long text
    prose.py, mathml.py    text of models as safe HTML: Markdown, code, formulas
    guard.py       token, host names, headers
    app.py         the pages

It reads committed tables only and writes nothing. There is no script on any page.
"""
