//! The union's core, without a mount: first scan, lookup, listing, copy-up.
//!
//! `cargo bench -p cowl-benches`; the layers lie in `TMPDIR`: name a directory on a journaled
//! filesystem or a tmpfs there to compare runs.

// A benchmark that cannot be set up stops, and says why.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use cowl_benches::{NAMES, Tree, name};
use cowl_fs::ident::NodeId;
use cowl_fs::overlay::Overlay;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

const LAYERS: [usize; 3] = [1, 10, 64];

fn list(union: &Overlay) -> usize {
    let mut count = 0;
    union
        .readdir(NodeId::ROOT, 0, |entry| {
            count += usize::from(!entry.name.is_empty());
            true
        })
        .expect("list the root");
    count
}

fn find(union: &Overlay, name: &str) {
    let found = union.lookup(NodeId::ROOT, name.as_bytes()).expect("a name of the union");
    union.forget(black_box(found.node.id), 1);
}

fn names(c: &mut Criterion) {
    for layers in LAYERS {
        let tree = Tree::new(layers).expect("make the layers");
        let opened = || tree.open().expect("open the union");

        c.bench_with_input(BenchmarkId::new("first listing", layers), &layers, |b, _| {
            b.iter_batched_ref(opened, |union| list(union), BatchSize::PerIteration);
        });
        let union = opened();
        assert_eq!(list(&union), NAMES + 3, "the files, the large one, and the dots");
        c.bench_with_input(BenchmarkId::new("warm listing", layers), &layers, |b, _| {
            b.iter(|| list(&union));
        });
        let mut number = 0;
        c.bench_with_input(BenchmarkId::new("lookup", layers), &layers, |b, _| {
            b.iter(|| {
                number = (number + 7) % NAMES;
                find(&union, &name(number));
            });
        });
        c.bench_with_input(
            BenchmarkId::new("lookup of a missing name", layers),
            &layers,
            |b, _| {
                b.iter(|| union.lookup(NodeId::ROOT, black_box(b"missing")).is_err());
            },
        );
    }
}

fn copy_up(c: &mut Criterion) {
    let tree = Tree::new(1).expect("make the layers");
    for (what, name) in [("4 KiB and less", name(1)), ("4 MiB", "large".to_owned())] {
        c.bench_function(&format!("one byte written into a lower file of {what}"), |b| {
            b.iter_batched_ref(
                || {
                    let union = tree.open().expect("open the union");
                    let found = union.lookup(NodeId::ROOT, name.as_bytes()).expect("a lower file");
                    (union, found.node.id)
                },
                |(union, id)| union.write(*id, b"x", 0, None).expect("write"),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = names, copy_up
}
criterion_main!(benches);
