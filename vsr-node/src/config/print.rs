//! `config print-default`: a TOML file that says what every setting means and, read back, changes
//! nothing.

use super::fields::{FIELDS, Field, Shape};

/// How wide the comments are.
const WIDTH: usize = 96;

/// The defaults as a commented TOML file.
#[must_use]
pub fn print_default() -> String {
    let mut text = String::from(
        "# The settings of one vsr-node, all at their defaults. Flags (--tick 20ms) override environment\n\
         # variables (VSR_TICK=20ms), which override this file (vsr-node start --config FILE).\n\
         # Check a changed file with: vsr-node config check FILE\n",
    );
    for field in FIELDS
        .iter()
        .filter(|field| !field.help.starts_with("Not in this version"))
    {
        text.push('\n');
        for line in wrapped(field.help) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&assignment(field));
    }
    text
}

fn assignment(field: &Field) -> String {
    let name = field.name;
    match (field.default, field.shape) {
        (Some(default), Shape::Switch | Shape::Number) => format!("{name} = {default}\n"),
        (Some(default), _) => format!("{name} = {default:?}\n"),
        (None, Shape::List) => format!("# {name} = [\"a:7000\", \"b:7000\", \"c:7000\"]\n"),
        (None, Shape::Number) => format!("# {name} = 0\n"),
        (None, _) => format!("# {name} = \"{}\"\n", field.value),
    }
}

/// `text` in lines of at most [`WIDTH`].
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a last line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
