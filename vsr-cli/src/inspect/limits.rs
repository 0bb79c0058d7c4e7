//! `inspect limits` for people: the memory plan, pool by pool, how full each is and was.

use serde_json::Value;
use vsr_node::inspect::Limits;
use vsr_node::plan::PoolReport;

use crate::output::Block;
use crate::table::{Cell, Table, Tone};
use crate::units;

/// A pool that has been so full once is shown as one to think about.
const NEARLY_FULL: f64 = 0.9;

/// Appends the answer of a node as tables; false, with nothing appended, when it is not what this
/// version of the tool knows.
pub(super) fn lay_out(json: &Value, blocks: &mut Vec<Block>) -> bool {
    let Ok(limits) = serde_json::from_value::<Limits>(json.clone()) else {
        return false;
    };
    blocks.push(Block::Title("memory".to_owned()));
    blocks.push(Block::Table(sums(&limits)));
    blocks.push(Block::Title("pools".to_owned()));
    blocks.push(Block::Table(pools(&limits.pools)));
    blocks.push(Block::Title("other bounds".to_owned()));
    let mut others = Table::new(&["bound", ">value"]);
    for bound in &limits.limits {
        others.row(vec![bound.name.as_str().into(), Cell::number(bound.value)]);
    }
    blocks.push(Block::Table(others));
    true
}

fn sums(limits: &Limits) -> Table {
    let mut table = Table::new(&["", ">bytes", "", ""]);
    let mut row = |name: &str, bytes: Option<u64>, note: String| {
        let number = bytes.map_or_else(none, Cell::number);
        let short = bytes.map_or_else(String::new, |bytes| units::bytes(bytes as f64));
        table.row(vec![name.into(), number, short.into(), note.into()]);
    };
    let planned = limits.memory_bytes;
    let off = limits.resident_bytes.map_or_else(String::new, |resident| {
        let off = 100.0 * (resident as f64 - planned as f64) / planned.max(1) as f64;
        format!("{off:+.1} % of the plan, with code and runtime")
    });
    row("plan", Some(planned), String::new());
    row(
        "of it at the start",
        Some(limits.start_bytes),
        String::new(),
    );
    row("resident", limits.resident_bytes, off);
    row("in huge pages", limits.huge_bytes, String::new());
    table
}

fn pools(pools: &[PoolReport]) -> Table {
    let titles = [
        "part",
        "pool",
        ">count",
        "",
        ">each",
        ">bytes",
        ">now",
        ">high water",
        ">fullest",
        "follows from",
    ];
    let mut table = Table::new(&titles);
    let mut part = "";
    for pool in pools {
        let name = if pool.part == part {
            ""
        } else {
            pool.part.as_str()
        };
        part = &pool.part;
        let setting = match pool.setting.as_str() {
            "fixed" => "fixed".to_owned(),
            setting => format!("--{setting}"),
        };
        table.row(vec![
            Cell::from(name),
            pool.pool.as_str().into(),
            Cell::number(pool.count),
            pool.unit.as_str().into(),
            Cell::number(pool.size_bytes),
            Cell::number(pool.bytes),
            pool.used.map_or_else(none, Cell::number),
            pool.high_water
                .map_or_else(none, |most| mark(most, pool.count)),
            pool.fullest_bytes
                .map_or_else(none, |bytes| mark(bytes, pool.size_bytes)),
            setting.into(),
        ]);
    }
    table
}

fn none() -> Cell {
    Cell::toned("-", Tone::Dim)
}

/// A high-water mark, in the tone of how near the brim it is.
fn mark(most: u64, count: u64) -> Cell {
    let is_nearly_full = most as f64 >= NEARLY_FULL * count as f64 && count > 1;
    let cell = Cell::number(most);
    if is_nearly_full {
        cell.tone(Tone::Warn)
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use vsr_node::Config;
    use vsr_node::inspect::limits;
    use vsr_node::plan::Plan;
    use vsr_types::memory::Level;

    use super::*;
    use crate::output::{Format, Report};

    fn shown(json: Value) -> String {
        let mut blocks = Vec::new();
        assert!(lay_out(&json, &mut blocks));
        let text = Report { json, blocks }.render(Format::Table);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn every_pool_is_a_line_with_its_high_water_mark() {
        let config = Config::new("c", "a:1,b:1,c:1", 0).expect("valid");
        let plan = Plan::of_key_values(&config);
        let levels = [
            Level::new("sessions", 7, 4000),
            Level::new("peers' send buffers", 1, 2).with_fullest(12_345),
        ];
        let answer = limits(&config, Some(&plan), &levels);
        let text = shown(serde_json::to_value(&answer).expect("JSON"));
        for pool in plan.pools() {
            assert!(text.contains(pool.name), "{} is not in\n{text}", pool.name);
        }
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = |name: &str| {
            let mut lines = text.lines().map(words);
            lines.find(|line| line.contains(name)).unwrap_or_default()
        };
        assert!(
            line("4,096 sessions").ends_with("442,368 7 4,000 - --sessions"),
            "{text}"
        );
        assert!(
            line("2 links 8,388,608").ends_with("1 2 12,345 --peers"),
            "{text}"
        );
    }

    #[test]
    fn an_answer_of_another_version_is_left_to_the_general_rule() {
        let mut blocks = Vec::new();
        assert!(!lay_out(&serde_json::json!({"memory": []}), &mut blocks));
        assert!(blocks.is_empty());
    }
}
