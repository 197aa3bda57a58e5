//! `codeswarm fetch`: the files of a job, as a directory, an archive or a Git bundle, from whichever machine.
//!
//! Only the stores are read: the log says which features are committed, the artifact store has the bytes. What is written is
//! written whole or not at all, and nothing that is there already is overwritten.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::args::{Common, FetchArgs, FetchFormat};
use super::live::Watched;
use super::screen::Screen;
use super::{Exit, Failure, jobs, opened};
use crate::backend::Backend;
use crate::clock;
use crate::job::Job;
use crate::protocol::{ArtifactRef, FeatureId, TaskId};
use crate::workspace::{self, FeatureCommit, OutputMode, Workspace};

/// Stands for standard output.
const STDOUT: &str = "-";

/// A committed feature and where its files are.
struct Feature {
    id: FeatureId,
    title: String,
    complete: bool,
    files: Vec<(String, ArtifactRef, TaskId)>,
}

pub(super) async fn run(screen: &Screen, common: &Common, args: FetchArgs) -> Result<Exit, Failure> {
    let format = format(&args, screen)?;
    let (backend, _) = opened::open_existing(common, "fetch").await?;
    let id = jobs::find(&backend, args.job.as_deref()).await?.job;
    let watched = Watched::load(&backend, &id).await?;
    let features = committed(&watched.job);
    if features.is_empty() {
        let what = format!("no feature of job {id} is committed yet: there is nothing to fetch");
        return Err(Failure::error("CS-CLI-026", what, format!("wait for it with `codeswarm watch {id}`")));
    }
    match format {
        FetchFormat::Dir => {
            directory(&backend, &watched.job, &features, &args.out, OutputMode::Directory).await.map(drop)?;
        }
        FetchFormat::Tar => archive(&backend, &features, &args.out).await?,
        FetchFormat::GitBundle => bundle(&backend, &watched.job, &features, &args.out).await?,
    }
    Ok(tell(screen, &args, format, &watched, &features))
}

/// Says what was fetched and what is missing.
fn tell(screen: &Screen, args: &FetchArgs, format: FetchFormat, watched: &Watched, features: &[Feature]) -> Exit {
    let job = &watched.job;
    let fetched: usize = features.iter().map(|feature| feature.files.len()).sum();
    let planned = job.totals().files.total as usize;
    // Features whose files are not planned yet have no files to count.
    let is_whole = fetched == planned && job.features().all(|feature| features.iter().any(|f| f.id == feature.spec.id));
    let out = args.out.display().to_string();
    if args.output.json {
        let format = match format {
            FetchFormat::Dir => "dir",
            FetchFormat::Tar => "tar",
            FetchFormat::GitBundle => "git-bundle",
        };
        let files = json!({"fetched": fetched, "planned": planned});
        screen.result(
            &json!({"job": job.id(), "out": out, "format": format, "files": files, "complete": is_whole}).to_string(),
        );
    } else {
        screen.note(&format!("{fetched} files of job {} in {out}", job.id()));
    }
    if is_whole {
        return Exit::Done;
    }
    screen.note(&format!(
        "the job is {}: only {fetched} of {planned} planned files are committed so far",
        job.status().as_str()
    ));
    Exit::Warnings
}

/// What to write, by the flag or else by the name.
fn format(args: &FetchArgs, screen: &Screen) -> Result<FetchFormat, Failure> {
    let name = args.out.to_string_lossy();
    let format = match args.format {
        Some(format) => format,
        None => format_of(&name)?,
    };
    if name == STDOUT {
        if format != FetchFormat::Tar || args.output.json {
            let what = "--out -: only an archive can go to standard output, and nothing else beside it";
            return Err(Failure::usage("CS-CLI-027", what, "use --format tar without --json, or name a file"));
        }
        if screen.terminal {
            let what = "--out -: an archive is not for a terminal";
            return Err(Failure::usage(
                "CS-CLI-027",
                what,
                "send it into a file or another program, or name a directory",
            ));
        }
    } else if format != FetchFormat::Dir && args.out.symlink_metadata().is_ok() {
        let what = format!("--out {name}: there is something of that name already");
        return Err(Failure::usage("CS-CLI-027", what, "name another file, or remove that one"));
    }
    Ok(format)
}

fn format_of(name: &str) -> Result<FetchFormat, Failure> {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if name == STDOUT || ends(&[".tar"]) {
        return Ok(FetchFormat::Tar);
    }
    if ends(&[".bundle"]) {
        return Ok(FetchFormat::GitBundle);
    }
    if ends(&[".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2", ".zip", ".gz"]) {
        let what = format!("--out {name}: compressed archives are not written");
        let remedy = "name a .tar file, or use --out - and a compressor: codeswarm fetch --out - | gzip > FILE";
        return Err(Failure::usage("CS-CLI-027", what, remedy));
    }
    Ok(FetchFormat::Dir)
}

/// The committed features with the files they have.
fn committed(job: &Job) -> Vec<Feature> {
    let features = job.features().filter_map(|feature| {
        let commit = feature.committed?;
        let files = job.feature_tasks(&feature.spec.id).filter_map(|task| {
            Some((task.path()?.to_owned(), task.receipt.as_ref()?.artifact.clone(), task.id.clone()))
        });
        Some(Feature {
            id: feature.spec.id.clone(),
            title: feature.spec.name.clone(),
            complete: commit.complete,
            files: files.collect(),
        })
    });
    features.filter(|feature| !feature.files.is_empty()).collect()
}

/// Writes the files into a directory, feature by feature, as the coordinator would.
async fn directory(
    backend: &Backend,
    job: &Job,
    features: &[Feature],
    out: &Path,
    mode: OutputMode,
) -> Result<Workspace, Failure> {
    workspace::preflight(out, mode, job.id()).await?;
    let workspace = Workspace::open(out, mode, job.id()).await?;
    for feature in features {
        let mut files = Vec::with_capacity(feature.files.len());
        for (path, artifact, task) in &feature.files {
            files.push((path.clone(), backend.artifacts.get(artifact).await?, task.clone()));
        }
        let (title, complete) = (feature.title.clone(), feature.complete);
        workspace.commit_feature(FeatureCommit { feature: feature.id.clone(), title, files, complete }).await?;
    }
    workspace.finish().await?;
    Ok(workspace)
}

/// Writes a tar archive: the same files give the same bytes, whenever and wherever it is written.
async fn archive(backend: &Backend, features: &[Feature], out: &Path) -> Result<(), Failure> {
    let mut files: Vec<(&str, &ArtifactRef)> = features
        .iter()
        .flat_map(|feature| &feature.files)
        .map(|(path, artifact, _)| (path.as_str(), artifact))
        .collect();
    files.sort_unstable_by_key(|(path, _)| *path);
    if out.as_os_str() == STDOUT {
        return pack(backend, &files, io::stdout().lock(), out).await.map(drop);
    }
    let unfinished = Unfinished::beside(out);
    let file = std::fs::File::create_new(&unfinished.0).map_err(|error| unwritable(out, &error))?;
    let file = pack(backend, &files, BufWriter::new(file), out).await?;
    let file = file.into_inner().map_err(|error| unwritable(out, error.error()))?;
    file.sync_all().map_err(|error| unwritable(out, &error))?;
    unfinished.place(out)
}

async fn pack<W: Write>(
    backend: &Backend,
    files: &[(&str, &ArtifactRef)],
    writer: W,
    out: &Path,
) -> Result<W, Failure> {
    let mut archive = tar::Builder::new(writer);
    for (path, artifact) in files {
        let bytes: Bytes = backend.artifacts.get(artifact).await?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(if bytes.starts_with(b"#!") { 0o755 } else { 0o644 });
        header.set_mtime(0);
        archive.append_data(&mut header, path, bytes.as_ref()).map_err(|error| unwritable(out, &error))?;
    }
    let mut writer = archive.into_inner().map_err(|error| unwritable(out, &error))?;
    writer.flush().map_err(|error| unwritable(out, &error))?;
    Ok(writer)
}

/// Makes a repository with one commit per feature and packs it into one file.
async fn bundle(backend: &Backend, job: &Job, features: &[Feature], out: &Path) -> Result<(), Failure> {
    let unfinished = Unfinished::beside(out);
    let repository = directory(backend, job, features, &unfinished.0, OutputMode::Git).await?;
    let packed = repository.bundle().await?;
    std::fs::hard_link(&packed, out).map_err(|error| unwritable(out, &error))
}

/// Something that is being written; removed when it is not finished.
struct Unfinished(PathBuf);

impl Unfinished {
    /// A new name beside `out`, so that finishing is a matter of the name alone.
    fn beside(out: &Path) -> Self {
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self(out.with_file_name(format!(".{name}.{}", clock::random_token(8))))
    }

    /// Gives it its name; nothing that has appeared there meanwhile is overwritten.
    fn place(self, out: &Path) -> Result<(), Failure> {
        std::fs::hard_link(&self.0, out).map_err(|error| unwritable(out, &error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What cannot be removed is a stray file or directory; there is nobody to tell.
        let _ = match self.0.is_dir() {
            true => std::fs::remove_dir_all(&self.0),
            false => std::fs::remove_file(&self.0),
        };
    }
}

fn unwritable(out: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot write {}: {error}", out.display());
    Failure::error("CS-CLI-030", what, "name another place with --out, or free space there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_what_is_written_and_what_cannot_be_is_refused() {
        for (name, wanted) in [
            ("out", FetchFormat::Dir),
            ("a.tar/b", FetchFormat::Dir),
            ("x.tar", FetchFormat::Tar),
            ("X.TAR", FetchFormat::Tar),
            ("-", FetchFormat::Tar),
            ("x.bundle", FetchFormat::GitBundle),
        ] {
            assert_eq!(format_of(name).unwrap(), wanted, "{name}");
        }
        for name in ["x.tar.gz", "x.tgz", "x.zip"] {
            assert_eq!(format_of(name).unwrap_err().exit, Exit::Usage, "{name}");
        }
    }
}
