"""Asks a running Prometheus what the dashboard asks: every process is scraped, every rule works, every panel has its data.

dashboard.py ADDRESS PROCESSES [DASHBOARD]    without a dashboard, only until the processes are scraped
"""
import json
import re
import sys
import time
import urllib.parse
import urllib.request

address, processes, dashboard = sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or [None])[0]

# Shown by programs that Debian does not have.
ELSEWHERE = re.compile(r"jetstream_|^ALERTS")
# Empty as long as nothing has gone wrong.
TROUBLE = re.compile(r"store_errors|dead_letters")


def ask(path, **parameters):
    """The data of an answer of Prometheus."""
    url = f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


def scraped():
    """Targets that are up, by job."""
    up = {}
    for target in ask("targets", state="active")["activeTargets"]:
        if target["health"] == "up":
            up[target["labels"]["job"]] = up.get(target["labels"]["job"], 0) + 1
    return up


def expressions(panels):
    """What the panels ask, with Grafana's variables filled in."""
    for panel in panels:
        yield from expressions(panel.get("panels", []))
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$agent_type", ".*")
            yield panel["title"], text


def unanswered():
    """Panels without data."""
    with open(dashboard, encoding="utf-8") as file:
        asked = list(expressions(json.load(file)["panels"]))
    due = [(title, text) for title, text in asked if not ELSEWHERE.search(text) and not TROUBLE.search(text)]
    return len(asked), len(due), [f"{title}: {text}" for title, text in due if not ask("query", query=text)["result"]]


# Two rounds of scraping and of the rules, and then some.
end = time.monotonic() + 60
while True:
    up = scraped()
    all_of_them, due, empty = unanswered() if dashboard else (0, 0, [])
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    faults = [f"{up.get('codeswarm', 0)} of {processes} processes are scraped"] if up.get("codeswarm", 0) < processes else []
    faults += [] if up.get("redis") else ["the exporter of Redis is not scraped"]
    faults += [f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in rules if rule["health"] != "ok"]
    faults += [f"no data for {panel}" for panel in empty]
    if not faults:
        break
    if time.monotonic() > end:
        sys.exit("\n".join(faults))
    time.sleep(1)
if not dashboard:
    sys.exit()
firing = sorted({rule["name"] for rule in rules for alert in rule.get("alerts", []) if alert["state"] == "firing"})
print(f"{up['codeswarm']} processes and Redis scraped; {len(rules)} rules without fault;")
print(f"{due} of {all_of_them} questions of the dashboard asked, each has data; alerts: {', '.join(firing) or 'none'}")
