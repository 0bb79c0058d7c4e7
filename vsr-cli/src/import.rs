//! `import`: a new cluster begins with the state in a file (R7.4).

use std::time::{Duration, Instant};

use serde_json::json;
use vsr_net::init;
use vsr_node::image::ImageReader;

use crate::args::{Global, ImportArgs};
use crate::failure::Failure;
use crate::image;
use crate::init as forming;
use crate::output::{Block, Screen};
use crate::progress::Progress;
use crate::table::Tone;
use crate::units::{bytes, grouped};

/// What takes longer than this gets a bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// Forms a cluster of the replicas at the endpoints, with the state in a file.
///
/// # Errors
/// When the file is not what was written, a replica refuses (exit code 3) or is not there (exit code 1).
pub(crate) async fn run(args: &ImportArgs, global: &Global, screen: Screen) -> Result<(), Failure> {
    let begun = Instant::now();
    // All of it is read once before anybody is asked: what is damaged is found while nothing has changed.
    let reader = ImageReader::open(&args.file).map_err(|error| image::failure(&error))?;
    let summary = reader.finish().map_err(|error| image::failure(&error))?;
    let mut reader = ImageReader::open(&args.file).map_err(|error| image::failure(&error))?;
    let (size, chunks) = (reader.size(), summary.facts.offer.chunks);
    let mut bar = None;
    let name = global.cluster.as_deref();
    let formed = init::form_with(
        &global.endpoints,
        name,
        global.timeout,
        &mut reader,
        |done| {
            if begun.elapsed() > PATIENCE {
                let bar = bar.get_or_insert_with(|| Progress::counting(chunks));
                let share = done as f64 / chunks.max(1) as f64;
                bar.reach(done, format!("{} to each", bytes(size as f64 * share)));
            }
        },
    );
    let formed = formed.await.map_err(|error| forming::failure(&error))?;
    drop(bar);
    let facts = &summary.facts;
    let mut report = forming::report(formed);
    report.json["op"] = json!(facts.op().raw());
    report.json["digest"] = json!(facts.digest().to_string());
    report.json["image_of"] = json!(facts.cluster().to_string());
    report.json["bytes"] = json!(size);
    report.json["seconds"] = json!(begun.elapsed().as_secs_f64());
    let text = format!(
        "with the state of cluster {} ({}) after op {}: {} brought to every replica and verified by it \
         in {:.1?}, digest {}",
        facts.cluster(),
        facts.cluster_name,
        grouped(facts.op().raw()),
        bytes(size as f64),
        begun.elapsed(),
        facts.digest(),
    );
    report.blocks.insert(1, Block::Line(text, Tone::Plain));
    Ok(screen.show(&report)?)
}
