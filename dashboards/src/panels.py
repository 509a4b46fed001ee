"""Queries, panels, rows and boards in Grafana's JSON: the parts of every dashboard."""

import string

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The filter of every query: the services that the reader chose at the top of the page.
CHOSEN = 'job=~"$job",instance=~"$instance"'
# Series of the gateway also have the model's name.
MODEL = CHOSEN + ',model_name=~"$model"'
QUANTILES = (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"))
COLUMNS = 24
GREEN, ORANGE, RED = "green", "orange", "red"


# ---- queries --------------------------------------------------------------------------------------------------------


def query(expression, legend, **more):
    """Returns one line of a panel."""
    return {"datasource": DATASOURCE, "expr": expression, "legendFormat": legend, "range": True, **more}


def rate(metric, where=CHOSEN):
    """Returns the rate of a counter, by series."""
    return f"rate({metric}{{{where}}}[$__rate_interval])"


def total(metric, where=CHOSEN, by="", rare=False):
    """Returns the summed rate of a counter. A `rare` one has no series before its first event and must read 0."""
    grouped = f"sum by ({by}) ({rate(metric, where)})" if by else f"sum({rate(metric, where)})"
    return f"{grouped} or on() vector(0)" if rare else grouped


def level(metric, where=CHOSEN, by="", how="sum"):
    """Returns a gauge, aggregated by `how` over the chosen series."""
    return f"{how} by ({by}) ({metric}{{{where}}})" if by else f"{how}({metric}{{{where}}})"


def quantile(metric, q, where=CHOSEN, by=""):
    """Returns a quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(metric + '_bucket', where)}))"


def quantiles(metric, where=CHOSEN):
    """Returns p50, p90 and p99. Exemplars are the same for all, so only one query asks for them."""
    return [query(quantile(metric, q, where), name, exemplar=name == "p99") for name, q in QUANTILES]


# ---- panels ---------------------------------------------------------------------------------------------------------


def panel(kind, title, description, unit, targets, width, height, options, **defaults):
    for letter, target in zip(string.ascii_uppercase, targets):
        target["refId"] = letter
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
        "options": options, "targets": targets,
    }


def steps(*pairs):
    """Returns colors by value: a first color, then (from, color)."""
    first, *others = pairs
    return {
        "mode": "absolute",
        "steps": [{"color": first, "value": None}, *({"color": color, "value": value} for value, color in others)],
    }


def stat(title, description, unit, expression, legend="", width=4, colors=(GREEN,), **defaults):
    """Returns a panel of one number with its course."""
    options = {
        "colorMode": "value", "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    targets = [query(expression, legend or title)]
    return panel("stat", title, description, unit, targets, width, 4, options, thresholds=steps(*colors), **defaults)


def lines(title, description, unit, targets, width=8, stacked=False, height=8, **defaults):
    """Returns a panel of lines over time; `stacked` where they add up."""
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if stacked else 8, "showPoints": "never", "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "none" if stacked else "desc"},
    }
    return panel("timeseries", title, description, unit, targets, width, height, options, **{"min": 0, "custom": custom, **defaults})


def latency(title, description, metric, where=CHOSEN, width=8):
    """Returns a panel of a duration's quantiles, with dots for single requests."""
    return lines(title, f"{description} A dot is one request and opens its trace.", "s", quantiles(metric, where), width)


def heat(title, description, metric, where=CHOSEN, width=8, unit="s"):
    """Returns a heat map of a histogram's buckets over time."""
    options = {
        "calculate": False, "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Spectral", "steps": 64, "exponent": 0.5},
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "cellValues": {"unit": "reqps"},
        "tooltip": {"mode": "single", "yHistogram": True}, "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    expression = f"sum by (le) ({rate(metric + '_bucket', where)})"
    target = query(expression, "{{le}}", exemplar=True, format="heatmap")
    return panel("heatmap", title, description, "reqps", [target], width, 8, options)


# ---- boards ---------------------------------------------------------------------------------------------------------


def row(title, *panels):
    """Returns a heading and its panels, from left to right."""
    return title, panels


def choice(name, label, values, every=True, **more):
    """Returns a drop-down at the top of the page, filled by a query."""
    current = {"text": "All", "value": "$__all"} if every else {}
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": values,
        "query": {"query": values, "refId": name}, "includeAll": every, "multi": every, "current": current,
        **({"allValue": ".*"} if every else {}), "refresh": 2, "sort": 1, "hide": 0, "options": [], **more,
    }


def among(name, label, values, chosen):
    """Returns a drop-down of given values."""
    options = [{"text": value, "value": value, "selected": value == chosen} for value in values]
    return {
        "name": name, "label": label, "type": "custom", "query": ",".join(values), "includeAll": False, "multi": False,
        "current": {"text": chosen, "value": chosen}, "hide": 0, "options": options,
    }


def sources():
    return {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"}, "hide": 0, "includeAll": False, "multi": False,
        "refresh": 1, "options": [],
    }


SERVICES = "gateway|prefill|decode|kvstore"
JOB = choice("job", "Service", f'label_values(up{{job=~"{SERVICES}"}}, job)')
INSTANCE = choice("instance", "Instance", 'label_values(up{job=~"$job"}, instance)')
MODELS = choice("model", "Model", 'label_values(vllm:time_to_first_token_seconds_count{job=~"$job"}, model_name)')


def laid_out(rows):
    """Returns panels with positions and ids: each row from left to right, as many per line as fit."""
    laid, y = [], 0
    for title, panels in rows:
        heading = {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": COLUMNS, "h": 1}, "panels": []}
        x = height = 0
        for each in (heading, *panels):
            place = each["gridPos"]
            if x + place["w"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place["x"], place["y"] = x, y
            x, height = x + place["w"], max(height, place["h"])
            laid.append({"id": len(laid) + 1, **each})
        y += height
    return laid


def board(uid, title, description, rows, variables=(JOB, INSTANCE)):
    """Returns a whole dashboard."""
    return {
        "uid": f"tandem-{uid}", "title": f"Tandem: {title}", "description": description, "tags": ["tandem"],
        "editable": False, "graphTooltip": 1, "schemaVersion": 39, "version": 1, "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"}, "timezone": "browser",
        "annotations": {"list": [alerts()]},
        "links": [{
            "type": "dashboards", "title": "Tandem", "tags": ["tandem"], "asDropdown": False, "includeVars": False,
            "keepTime": True, "targetBlank": False, "icon": "external link",
        }],
        "templating": {"list": [sources(), *variables]},
        "panels": laid_out(rows),
    }


def alerts():
    """Returns the annotation that marks alerts on every time axis."""
    return {
        "name": "Alerts", "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing",alertname=~"Tandem.*"}', "step": "15s", "titleFormat": "{{alertname}}",
        "textFormat": "{{job}} {{instance}}", "tagKeys": "severity",
    }
