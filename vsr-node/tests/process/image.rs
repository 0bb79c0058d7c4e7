//! A cluster's state leaves for a file under load, every process is killed, and a new cluster begins with the
//! file (R7.4 to R7.6, R8.9).

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use vsr_net::Tool;
use vsr_net::export::{self, ExportOptions};
use vsr_net::init::{self, InitError, InitRefusal};
use vsr_node::image::{Facts, FileSink, ImageReader, Summary};
use vsr_node::local::{self, LocalCluster};
use vsr_types::message::PutOutcome;

use super::cluster::{call, cluster, spawn};
use super::run;

/// A folder that is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vsr-process-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn endpoints(cluster: &LocalCluster) -> Vec<String> {
    cluster.members().iter().map(|m| m.native.clone()).collect()
}

/// What `vsr-cli export` does.
async fn export_from(cluster: &LocalCluster, replica: usize, path: &Path) -> Summary {
    let within = Duration::from_secs(20);
    let mut newest = vsr_types::Op::ZERO;
    for endpoint in endpoints(cluster) {
        let mut tool = Tool::connect(&endpoint, None, within).await.expect("up");
        newest = newest.max(tool.ping().await.expect("a pong").op);
    }
    let mut tool = Tool::connect(&endpoints(cluster)[replica], None, within)
        .await
        .expect("up");
    let mut sink = FileSink::new(path);
    let options = ExportOptions {
        at_least: newest,
        rate: 256 << 20,
        patience: within,
    };
    let exported = export::fetch(&mut tool, &mut sink, options, |_| {})
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let facts = Facts {
        offer: exported.offer,
        cluster_name: "test".to_owned(),
        op_max: vsr_types::limits::NUMBER_MAX,
        replica: replica as u8,
        written_ns: 1,
    };
    assert!(facts.op() >= newest, "what was acknowledged is in it");
    sink.finish(&facts).expect("written")
}

/// Writes k0, k1, ... one after the other, each after the last was acknowledged, and counts.
async fn write_on(resp: String, acknowledged: Rc<Cell<u64>>) {
    let mut stream = TcpStream::connect(resp).await.expect("a RESP port");
    loop {
        let number = acknowledged.get();
        let command = format!("SET k{number} v{number}\r\n");
        stream.write_all(command.as_bytes()).await.expect("sent");
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).await.expect("answered");
        assert_eq!(&reply, b"+OK\r\n");
        acknowledged.set(number + 1);
    }
}

/// Whether every key up to `count` is there.
async fn read_all(resp: &str, count: u64) {
    let mut stream = TcpStream::connect(resp).await.expect("a RESP port");
    let commands: String = (0..count).map(|n| format!("GET k{n}\r\n")).collect();
    let value = |n: u64| {
        let value = format!("v{n}");
        format!("${}\r\n{value}\r\n", value.len())
    };
    let expected: String = (0..count).map(value).collect();
    let mut reply = vec![0; expected.len()];
    let (mut read, mut write) = stream.split();
    let write = write.write_all(commands.as_bytes());
    let (written, read) = tokio::join!(write, read.read_exact(&mut reply));
    written.expect("sent");
    read.expect("answered");
    assert_eq!(String::from_utf8_lossy(&reply), expected);
}

/// The digests of all replicas at one op.
async fn digests(cluster: &LocalCluster) -> Vec<String> {
    let mut digests = Vec::new();
    for endpoint in endpoints(cluster) {
        let mut tool = Tool::connect(&endpoint, None, Duration::from_secs(5))
            .await
            .expect("up");
        let topic = vsr_types::message::InspectTopic::Digest;
        digests.push(tool.inspect(topic, 0).await.expect("a digest"));
    }
    digests
}

#[test]
fn a_cluster_that_was_killed_lives_on_in_another_one() {
    let folder = Folder::new("lives-on");
    let path = folder.0.join("state.vsr");
    let local = LocalSet::new();
    run(local.run_until(async {
        let old = cluster().await;
        let acknowledged = Rc::new(Cell::new(0));
        let resp = old.members()[0].resp.clone();
        let load = tokio::task::spawn_local(write_on(resp, Rc::clone(&acknowledged)));
        while acknowledged.get() < 500 {
            tokio::task::yield_now().await;
        }
        let before = acknowledged.get();
        let exported = export_from(&old, 2, &path).await;
        let meanwhile = acknowledged.get() - before;
        assert!(meanwhile > 0, "clients were served meanwhile: {meanwhile}");
        load.abort();
        let id = old.statuses().await.expect("all")[0].cluster.clone();
        // Killed with everything that they knew.
        let mut old = old;
        for replica in 0..3 {
            old.kill(replica).await.expect("killed");
        }

        let mut new = spawn(&[]);
        let mut reader = ImageReader::open(&path).expect("a file");
        let formed = new.form_with(&mut reader).await;
        formed.unwrap_or_else(|error| panic!("{error}"));
        let statuses = new.statuses().await.expect("all");
        for status in &statuses {
            assert_ne!(status.cluster, id, "a cluster of its own");
            assert!(status.sequence.op >= exported.facts.op().raw());
        }
        let members = new.members().to_vec();
        read_all(&members[1].resp, before).await;
        call(&members[2].resp, &["SET", "new", "1"], "+OK\r\n").await;
        call(&members[0].resp, &["GET", "new"], "$1\r\n1\r\n").await;
        // The primary goes, and comes back with nothing: the state is there all the time.
        for victim in [0, 1] {
            new.kill(victim).await.expect("killed");
            call(
                &members[2].resp,
                &["INCR", "new"],
                &format!(":{}\r\n", victim + 2),
            )
            .await;
            new.restart(victim).expect("started");
            super::cluster::until_ready(&new, victim).await;
        }
        read_all(&members[0].resp, before).await;
        // Out, and in, and out again.
        let again = folder.0.join("again.vsr");
        let second = export_from(&new, 1, &again).await;
        assert!(second.facts.op() > exported.facts.op());
        let digests = digests(&new).await;
        assert!(
            digests.iter().all(|digest| digest.contains("digest")),
            "{digests:?}"
        );
        drop(new);
    }));
}

#[test]
fn replicas_that_cannot_take_the_image_refuse_it_before_anything_is_written() {
    let folder = Folder::new("refused");
    let path = folder.0.join("state.vsr");
    run(async {
        let old = cluster().await;
        call(&old.members()[0].resp, &["SET", "a", "1"], "+OK\r\n").await;
        export_from(&old, 1, &path).await;
        // A cluster that works is not blank.
        let within = Duration::from_secs(10);
        let mut reader = ImageReader::open(&path).expect("a file");
        let formed = init::form_with(&endpoints(&old), None, within, &mut reader, |_| {}).await;
        let Err(InitError::Refused(why)) = formed else {
            panic!("{formed:?}");
        };
        assert_eq!(why.len(), 3);
        assert_eq!(why[0].1, InitRefusal::Image(PutOutcome::NotBlank));
        // Two replicas with another memory.
        let mut small = spawn(&[("memory", "4MiB")]);
        let mut reader = ImageReader::open(&path).expect("a file");
        let formed = small.form_with(&mut reader).await;
        let error = formed.expect_err("refused").to_string();
        assert!(error.contains("--memory"), "{error}");
        // Nothing was written: it is as blank as before.
        small.form().await.unwrap_or_else(|error| panic!("{error}"));
        call(
            &small.members()[1].resp,
            &["GET", "a"],
            "_\r\n".replace("_", "$-1").as_str(),
        )
        .await;
        // A file that is damaged behind its header: the replicas hold a part of it, and say so.
        let mut bytes = fs::read(&path).expect("a file");
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        let damaged = folder.0.join("damaged.vsr");
        fs::write(&damaged, &bytes).expect("written");
        let mut blank = spawn(&[]);
        let mut reader = ImageReader::open(&damaged).expect("its header is sound");
        let error = blank
            .form_with(&mut reader)
            .await
            .expect_err("damaged")
            .to_string();
        assert!(error.contains("is damaged"), "{error}");
        let error = blank
            .form()
            .await
            .expect_err("they hold a part")
            .to_string();
        assert!(error.contains("holds an image"), "{error}");
        // The whole one, after the time in which another import might still go on.
        let mut tries = 0;
        let formed = loop {
            let mut reader = ImageReader::open(&path).expect("a file");
            match blank.form_with(&mut reader).await {
                Ok(formed) => break formed,
                Err(error) => assert!(
                    error.to_string().contains("another init or import"),
                    "{error}"
                ),
            }
            tries += 1;
            assert!(tries < 100, "an attempt keeps others out for some seconds");
            tokio::time::sleep(Duration::from_millis(200)).await; // nothing tells when it is over
        };
        assert_eq!(formed.replicas, 3);
        call(&blank.members()[1].resp, &["GET", "a"], "$1\r\n1\r\n").await;
        drop(local::free_members(1));
    });
}
