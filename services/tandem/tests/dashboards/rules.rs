//! Prometheus' rules as our file writes them: `expr` on one line, or as a block below it.

use promql_parser::parser;

/// A recording or an alert rule.
#[derive(Default)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) alert: bool,
    pub(crate) expression: String,
    severity: bool,
    summary: bool,
    description: usize,
}

impl Rule {
    /// Returns the faults of the rule.
    pub(crate) fn problems(&self) -> Vec<&'static str> {
        let mut problems = Vec::new();
        if self.expression.is_empty() || parser::parse(&self.expression).is_err() {
            problems.push("its expression does not parse");
        }
        if self.alert && !self.severity {
            problems.push("no severity");
        }
        if self.alert && !self.summary {
            problems.push("no summary");
        }
        if self.alert && self.description < 80 {
            problems.push("no description that says what to do");
        }
        if !self.alert && !self.name.starts_with("tandem:") {
            problems.push("a recorded name begins with tandem:");
        }
        problems
    }
}

/// The rules of a file.
pub(crate) fn read(text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut block = "";
    for line in text.lines() {
        let entry = line.trim_start().trim_start_matches("- ");
        let (key, value) = entry.split_once(':').unwrap_or(("", ""));
        let value = value.trim();
        let starts = match key {
            "record" | "alert" => {
                let alert = key == "alert";
                rules.push(Rule { name: value.to_owned(), alert, ..Rule::default() });
                true
            }
            "expr" | "labels" | "annotations" | "summary" | "description" | "for" | "name" => true,
            _ => false,
        };
        let Some(rule) = rules.last_mut() else { continue };
        if starts {
            block = key;
        }
        match (block, starts) {
            ("expr", true) => rule.expression = value.trim_matches(['|', '"', '\'']).to_owned(),
            ("expr", false) => rule.expression += &format!(" {}", line.trim()),
            ("labels", true) => rule.severity = value.contains("severity"),
            ("summary", true) => rule.summary = value.len() > 10,
            ("description", false) => rule.description += line.trim().len(),
            _ => {}
        }
    }
    rules
}
