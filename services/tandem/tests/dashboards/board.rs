//! A Grafana dashboard, read from its JSON, and the rules that ours follow.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::query;

const COLUMNS: u64 = 24;
const DATASOURCE: &str = "${datasource}";

/// A dashboard.
pub(crate) struct Board {
    /// Stable, for links.
    pub(crate) uid: String,
    json: Value,
}

impl Board {
    pub(crate) fn read(text: &str) -> Self {
        let json: Value = serde_json::from_str(text).expect("a dashboard is JSON");
        Self { uid: word(&json["uid"]).to_owned(), json }
    }

    fn panels(&self) -> Vec<Panel<'_>> {
        list(&self.json["panels"]).iter().map(Panel).collect()
    }

    /// The panels that show something.
    fn shown(&self) -> impl Iterator<Item = Panel<'_>> {
        self.panels().into_iter().filter(|panel| panel.kind() != "row")
    }

    fn variables(&self) -> BTreeSet<&str> {
        list(&self.json["templating"]["list"]).iter().map(|entry| word(&entry["name"])).collect()
    }

    /// The metrics that its queries ask for.
    pub(crate) fn metrics(&self) -> BTreeSet<String> {
        let queries = self.shown().flat_map(|panel| panel.queries());
        queries.filter_map(|query| query::metrics(query).ok()).flatten().collect()
    }

    /// Returns the faults of the dashboard as a whole.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for key in ["uid", "title", "description"] {
            if word(&self.json[key]).is_empty() {
                problems.push(format!("no {key}"));
            }
        }
        if !self.uid.starts_with("tandem-") {
            problems.push(format!("the uid {:?} does not begin with tandem-", self.uid));
        }
        if self.json["editable"] != false {
            problems.push("editable, though it is provisioned from a file".to_owned());
        }
        for name in ["datasource", "job", "instance"] {
            if !self.variables().contains(name) {
                problems.push(format!("no variable called {name}"));
            }
        }
        let used: BTreeSet<String> =
            self.shown().flat_map(|panel| panel.queries()).flat_map(query::variables).collect();
        for name in self.variables() {
            if name != "datasource" && !used.contains(name) {
                problems.push(format!("no query uses the variable {name}"));
            }
        }
        if list(&self.json["links"]).is_empty() {
            problems.push("no link to the other dashboards".to_owned());
        }
        problems.extend(self.layout_problems());
        problems
    }

    fn layout_problems(&self) -> Vec<String> {
        let panels = self.panels();
        let mut problems = Vec::new();
        for (at, panel) in panels.iter().enumerate() {
            let (x, _, width, _) = panel.place();
            if x + width > COLUMNS {
                problems.push(format!("{:?} reaches beyond the page", panel.title()));
            }
            for other in &panels[at + 1..] {
                if panel.title() == other.title() {
                    problems.push(format!("two panels called {:?}", panel.title()));
                }
                if panel.0["id"] == other.0["id"] {
                    problems.push(format!("two panels with id {}", panel.0["id"]));
                }
                if panel.overlaps(other) {
                    problems.push(format!("{:?} covers {:?}", panel.title(), other.title()));
                }
            }
        }
        problems
    }

    /// Returns the faults of the panel that its reader would notice.
    pub(crate) fn panel_problems(&self) -> Vec<String> {
        self.shown().flat_map(|panel| panel.problems()).collect()
    }

    /// Returns the faults of the queries.
    pub(crate) fn query_problems(&self) -> Vec<String> {
        let variables = self.variables();
        let mut problems = Vec::new();
        for panel in self.shown() {
            for text in panel.queries() {
                let unknown = query::variables(text).into_iter();
                let unknown = unknown.filter(|name| !variables.contains(name.as_str()));
                let unknown = unknown.map(|name| format!("unknown variable ${name}"));
                let found = query::problems(text).into_iter().chain(unknown);
                problems.extend(found.map(|why| format!("{:?}: {why}", panel.title())));
            }
        }
        problems
    }

    /// Means of histograms whose quantiles the dashboard does not show.
    pub(crate) fn lonely_averages(&self) -> Vec<String> {
        let metrics = self.metrics();
        let sums = metrics.iter().filter_map(|name| name.strip_suffix("_sum"));
        let lonely = sums.filter(|base| !metrics.contains(&format!("{base}_bucket")));
        lonely.map(|base| format!("the mean of {base} without a quantile")).collect()
    }
}

/// One panel, or the heading of a row.
struct Panel<'a>(&'a Value);

impl<'a> Panel<'a> {
    fn title(&self) -> &'a str {
        word(&self.0["title"])
    }

    fn kind(&self) -> &'a str {
        word(&self.0["type"])
    }

    fn targets(&self) -> &'a [Value] {
        list(&self.0["targets"])
    }

    fn queries(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.targets().iter().map(|target| word(&target["expr"]))
    }

    /// Left, top, width, height.
    fn place(&self) -> (u64, u64, u64, u64) {
        let at = |key: &str| self.0["gridPos"][key].as_u64().expect("a place on the page");
        (at("x"), at("y"), at("w"), at("h"))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (x, y, width, height) = self.place();
        let (other_x, other_y, other_width, other_height) = other.place();
        let across = x < other_x + other_width && other_x < x + width;
        across && y < other_y + other_height && other_y < y + height
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if word(&self.0["description"]).is_empty() {
            problems.push("no description".to_owned());
        }
        if word(&self.0["fieldConfig"]["defaults"]["unit"]).is_empty() {
            problems.push("no unit".to_owned());
        }
        if self.targets().is_empty() {
            problems.push("no query".to_owned());
        }
        for source in std::iter::once(self.0).chain(self.targets()) {
            if source["datasource"]["uid"] != DATASOURCE {
                problems.push(format!("the data source is fixed: {}", source["datasource"]));
            }
        }
        for target in self.targets() {
            if word(&target["legendFormat"]).is_empty() {
                problems.push("a line without a legend".to_owned());
            }
        }
        problems.extend(self.exemplar_problem());
        problems.into_iter().map(|problem| format!("{:?}: {problem}", self.title())).collect()
    }

    /// Each histogram over time brings its exemplars once; nothing else asks for any.
    fn exemplar_problem(&self) -> Option<String> {
        let over_time = ["timeseries", "heatmap"].contains(&self.kind());
        // A share within a limit reads one bucket; its dots would not lie on the line.
        let shown = self.targets().iter().filter(|target| {
            let query = word(&target["expr"]);
            over_time && query.contains("_bucket{") && !query.contains("le=")
        });
        // The same series give the same dots, whatever is made of them.
        let series = |target: &Value| {
            let query = word(&target["expr"]);
            let from = query.find("rate(").unwrap_or_default();
            query[from..].split(')').next().unwrap_or_default().to_owned()
        };
        let wanted: BTreeSet<String> = shown.map(series).collect();
        let asked: Vec<String> =
            self.targets().iter().filter(|target| target["exemplar"] == true).map(series).collect();
        let distinct: BTreeSet<String> = asked.iter().cloned().collect();
        if !distinct.is_subset(&wanted) {
            return Some("exemplars of what is no histogram over time".to_owned());
        }
        if distinct.len() < asked.len() {
            return Some("the same exemplars twice".to_owned());
        }
        (distinct != wanted).then(|| "a latency without exemplars".to_owned())
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
