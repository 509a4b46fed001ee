//! PromQL as dashboards write it: what is wrong with a query, and which metrics it asks for.

use std::collections::BTreeSet;

use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// Functions under which a counter may stand.
const OF_COUNTERS: [&str; 3] = ["rate", "increase", "irate"];
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The query with Grafana's variables replaced by what they might stand for.
pub(crate) fn concrete(query: &str) -> String {
    let mut text = query.replace("$__rate_interval", "1m");
    for variable in variables(query) {
        text = text.replace(&format!("${{{variable}}}"), "x").replace(&format!("${variable}"), "x");
    }
    text
}

/// The names of the variables in a query, the built-in ones left out; longest first.
pub(crate) fn variables(query: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rest in query.split('$').skip(1) {
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        let name = &rest[..end.unwrap_or(rest.len())];
        if !name.starts_with("__") {
            found.insert(name.to_owned());
        }
    }
    let mut found: Vec<String> = found.into_iter().collect();
    found.sort_by_key(|name| std::cmp::Reverse(name.len()));
    found
}

/// The metrics that a query asks for.
pub(crate) fn metrics(query: &str) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let tree = parser::parse(&concrete(query))?;
    walk(&tree, &mut Vec::new(), &mut |expr, _| {
        let selector = match expr {
            Expr::VectorSelector(selector) => selector,
            Expr::MatrixSelector(range) => &range.vs,
            _ => return,
        };
        names.extend(selector.name.clone());
    });
    Ok(names)
}

/// Returns the faults of a query of a panel.
pub(crate) fn problems(query: &str) -> Vec<String> {
    let tree = match parser::parse(&concrete(query)) {
        Ok(tree) => tree,
        Err(why) => return vec![format!("does not parse, {why}: {query}")],
    };
    let mut problems = Vec::new();
    if query.matches('[').count() != query.matches("[$__rate_interval]").count() {
        problems.push(format!("a range other than $__rate_interval: {query}"));
    }
    walk(&tree, &mut Vec::new(), &mut |expr, calls| match expr {
        Expr::VectorSelector(selector) => problems.extend(selector_problems(selector, calls)),
        Expr::MatrixSelector(range) => problems.extend(selector_problems(&range.vs, calls)),
        Expr::Call(call)
            if call.func.name == "histogram_quantile"
                && !call.args.args.last().is_some_and(|inner| keeps_bounds(inner)) =>
        {
            problems.push(format!("a quantile in whose sum le is missing: {query}"));
        }
        _ => {}
    });
    problems
}

fn selector_problems(selector: &VectorSelector, calls: &[&str]) -> Vec<String> {
    let Some(name) = &selector.name else {
        return vec![format!("a selector without a metric: {selector}")];
    };
    let mut problems = Vec::new();
    if is_counter(name) && !calls.iter().any(|call| OF_COUNTERS.contains(call)) {
        problems.push(format!("the counter {name} is shown raw, not as a rate"));
    }
    // Alerts and recorded series have lost these labels, or never had them.
    let ours = name != "ALERTS" && !name.starts_with("tandem:");
    let mut labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.as_str());
    if ours && !labels.any(|label| ["job", "instance"].contains(&label)) {
        problems.push(format!("{name} is asked for with neither job nor instance"));
    }
    problems
}

fn is_counter(name: &str) -> bool {
    name.ends_with("_total") || OF_HISTOGRAMS.iter().any(|suffix| name.ends_with(suffix))
}

fn keeps_bounds(inner: &Expr) -> bool {
    match inner {
        Expr::Aggregate(sum) => match &sum.modifier {
            Some(LabelModifier::Include(labels)) => labels.labels.iter().any(|label| label == "le"),
            Some(LabelModifier::Exclude(labels)) => labels.labels.iter().all(|label| label != "le"),
            None => false,
        },
        _ => true,
    }
}

/// Every part of an expression, with the functions it stands under.
fn walk<'a>(
    expr: &'a Expr,
    calls: &mut Vec<&'a str>,
    visit: &mut impl FnMut(&'a Expr, &[&'a str]),
) {
    visit(expr, calls);
    match expr {
        Expr::Aggregate(part) => {
            walk(&part.expr, calls, visit);
            if let Some(parameter) = &part.param {
                walk(parameter, calls, visit);
            }
        }
        Expr::Unary(part) => walk(&part.expr, calls, visit),
        Expr::Binary(part) => {
            walk(&part.lhs, calls, visit);
            walk(&part.rhs, calls, visit);
        }
        Expr::Paren(part) => walk(&part.expr, calls, visit),
        Expr::Subquery(part) => walk(&part.expr, calls, visit),
        Expr::Call(part) => {
            calls.push(part.func.name);
            part.args.args.iter().for_each(|argument| walk(argument, calls, visit));
            calls.pop();
        }
        Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::Extension(_) => {}
    }
}
