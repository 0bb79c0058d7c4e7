//! Completion scripts and manual pages, generated from the command line's own model.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Screen;

/// Prints a completion script.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn completions(screen: Screen, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vsr-cli", &mut script);
    Ok(screen.write(&String::from_utf8_lossy(&script))?)
}

/// Prints the manual page, or writes the pages of all commands into `dir`.
///
/// # Errors
/// When standard output is closed or the folder cannot be written.
pub(crate) fn man(screen: Screen, dir: Option<&Path>) -> Result<(), Failure> {
    if let Some(dir) = dir {
        return write_pages(screen, dir);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(screen.write(&String::from_utf8_lossy(&page))?)
}

fn write_pages(screen: Screen, dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| {
            Failure::new(format!("cannot write into {}: {error}", dir.display()))
                .next("name a folder that you may write to")
        })?;
    Ok(screen.write(&format!("wrote the manual pages into {}\n", dir.display()))?)
}
