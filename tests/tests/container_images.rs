//! Commands on images: `images`, `tag`, `rmi`, `history`, `inspect`, `image prune`, in both forms.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use cowl_tests::as_root_and_user;
use cowl_tests::container::{Machine, archive};
use serde_json::Value;

as_root_and_user!(
    lists_and_formats,
    filters_choose,
    names_are_given_and_taken,
    inspect_shows_dockers_shape,
    history_shows_the_steps,
    prune_removes_what_nothing_uses,
);

/// Loads a small image of one file with labels.
fn load(machine: &Machine, name: &str, content: &str, labels: &Value) {
    let layer = archive::Tar::default().file("f", content.as_bytes()).finish();
    let settings = serde_json::json!({ "Cmd": ["/f"], "Env": ["A=1", "B=2"], "Labels": labels });
    let image = archive::image_with_settings(name, &[layer], &settings);
    machine.cowl_with_input(&image, ["load", "-q"]).ok();
}

fn id(machine: &Machine, name: &str) -> String {
    machine.cowl(["image", "inspect", "-f", "{{.Id}}", name]).ok().trim().to_owned()
}

fn lists_and_formats(machine: &Machine) {
    let table = machine.cowl(["images"]).ok();
    let title = "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n";
    assert!(table.starts_with(title), "{table}");
    assert_eq!(machine.cowl(["image", "ls", "-a"]).ok(), table);
    assert_eq!(machine.cowl(["image", "list"]).ok(), table);
    let whole = id(machine, "busybox");
    assert_eq!(machine.cowl(["images", "-q"]).ok(), format!("{}\n", &whole[7..19]));
    assert_eq!(machine.cowl(["images", "-q", "--no-trunc"]).ok(), format!("{whole}\n"));
    let digests = machine.cowl(["images", "--digests"]).ok();
    assert!(digests.contains("DIGEST") && digests.contains("<none>"), "{digests}");
    let line = machine.cowl(["images", "--format", "json"]).ok();
    let object: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&object["Repository"], &object["Tag"]), (&"busybox".into(), &"latest".into()));
    let format = "{{.Repository}}:{{.Tag | upper}}";
    assert_eq!(machine.cowl(["images", "--format", format]).ok(), "busybox:LATEST\n");
    let format = "table {{.ID}}\\t{{.Tag}}";
    let table = machine.cowl(["images", "--format", format]).ok();
    assert_eq!(table, format!("IMAGE ID       TAG\n{}   latest\n", &whole[7..19]));
    machine.cowl(["images", "--format", "{{.Nothing}}"]).fails(1, "no entry for key \"Nothing\"");
    machine.cowl(["images", "--format", "{{.ID"]).fails(1, "template parsing error");
}

fn filters_choose(machine: &Machine) {
    load(machine, "team/one", "1", &serde_json::json!({ "stage": "test", "a": "b" }));
    load(machine, "team/two", "2", &serde_json::json!({ "stage": "live" }));
    let names = |filters: &[&str]| -> Vec<String> {
        let mut line = vec!["images", "--format", "{{.Repository}}"];
        for filter in filters {
            line.extend(["-f", filter]);
        }
        let mut found: Vec<String> = machine.cowl(line).ok().lines().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(names(&["label=stage"]), ["team/one", "team/two"]);
    assert_eq!(names(&["label=stage=test", "label=a=b"]), ["team/one"]);
    assert_eq!(names(&["label!=stage"]), ["busybox"]);
    assert_eq!(names(&["reference=team/*"]), ["team/one", "team/two"]);
    assert_eq!(names(&["reference=*box", "reference=team/t*:latest"]), ["busybox", "team/two"]);
    assert_eq!(names(&["dangling=true"]), Vec::<String>::new());
    assert_eq!(names(&["dangling=false"]).len(), 3);
    let by_name = machine.cowl(["images", "-q", "team/one"]).ok();
    assert_eq!(by_name.lines().count(), 1, "{by_name}");
    machine.cowl(["images", "-f", "x=y"]).fails(1, "invalid filter 'x'");
    machine.cowl(["images", "-f", "dangling"]).fails(1, "bad format of filter");
    machine.cowl(["images", "-f", "dangling=maybe"]).fails(1, "invalid filter 'dangling=[maybe]'");
    machine.cowl(["images", "-f", "since=nobody"]).fails(1, "No such image: nobody");
}

fn names_are_given_and_taken(machine: &Machine) {
    let whole = id(machine, "busybox");
    machine.cowl(["tag", "busybox", "reg.example:5000/x/y:1"]).ok();
    machine.cowl(["image", "tag", &whole[7..15], "other"]).ok();
    assert_eq!(id(machine, "other"), whole);
    assert_eq!(machine.cowl(["images", "-q"]).ok().lines().count(), 3);
    machine.cowl(["tag", "nobody", "x"]).fails(1, "No such image: nobody");
    machine.cowl(["tag", "busybox", "Bad"]).fails(1, "'Bad' is not a valid image name");
    let by_digest = format!("x@{whole}");
    machine.cowl(["tag", "busybox", &by_digest]).fails(1, "digest reference");

    // By its id while it has names in several repositories: only with force.
    machine.cowl(["rmi", &whole]).fails(1, "must be forced");
    assert_eq!(machine.cowl(["rmi", "other"]).ok(), "Untagged: other:latest\n");
    machine.cowl(["run", "--name", "user", "busybox", "true"]).ok();
    machine.cowl(["image", "rm", "reg.example:5000/x/y:1"]).ok();
    machine.cowl(["rmi", "busybox"]).fails(1, "is using its referenced image");
    let forced = machine.cowl(["rmi", "-f", "busybox"]).ok();
    assert_eq!(forced, "Untagged: busybox:latest\n");
    let list = machine.cowl(["images"]).ok();
    assert!(list.lines().nth(1).is_some_and(|line| line.starts_with("<none>")), "{list}");
    machine.cowl(["rm", "user"]).ok();
    let gone = machine.cowl(["image", "remove", "--no-prune", &whole]).ok();
    assert!(gone.contains(&format!("Deleted: {whole}")), "{gone}");
    machine.cowl(["rmi", &whole]).fails(1, "No such image");
    machine.load(&machine.path("busybox.tar"));
}

fn inspect_shows_dockers_shape(machine: &Machine) {
    load(machine, "one", "1", &serde_json::json!({ "b": "2" }));
    let text = machine.cowl(["inspect", "one"]).ok();
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let object = &list[0];
    let names: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "Id",
            "RepoTags",
            "RepoDigests",
            "Parent",
            "Comment",
            "Created",
            "DockerVersion",
            "Author",
            "Config",
            "Architecture",
            "Os",
            "Size",
            "GraphDriver",
            "RootFS",
            "Metadata"
        ]
    );
    assert_eq!(object["RepoTags"], serde_json::json!(["one:latest"]));
    assert_eq!(object["Config"]["Entrypoint"], Value::Null);
    assert!(text.starts_with("[\n    {\n        \"Id\": \"sha256:"), "{text}");
    let show = |format: &str| machine.cowl(["inspect", "-f", format, "one"]).ok();
    assert_eq!(show("{{.Config.Env}} {{index .Config.Labels \"b\"}}"), "[A=1 B=2] 2\n");
    assert_eq!(
        show("{{range .Config.Env}}{{.}};{{end}}{{json .Config.Cmd}}"),
        "A=1;B=2;[\"/f\"]\n"
    );
    assert_eq!(show("{{.Config.Entrypoint}}{{.Config.Labels.none}}"), "[]<no value>\n");
    machine.cowl(["inspect", "-f", "{{.Foo}}", "one"]).fails(1, "no entry for key \"Foo\"");
    machine.cowl(["inspect", "-f", "{{", "one"]).fails(64, "template parsing error");

    let both = machine.cowl(["image", "inspect", "one", "nobody"]);
    both.fails(1, "No such image: nobody");
    let found: Value = serde_json::from_str(&both.out()).expect("JSON");
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    let nothing = machine.cowl(["inspect", "nobody"]);
    nothing.fails(1, "No such object: nobody");
    assert_eq!(nothing.out(), "[]\n");
    machine.cowl(["inspect", "--type", "image", "one"]).ok();
    machine.cowl(["inspect", "--type", "thing", "one"]).fails(1, "\"thing\"");
}

fn history_shows_the_steps(machine: &Machine) {
    let table = machine.cowl(["history", "busybox"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("IMAGE          CREATED"), "{table}");
    let whole = id(machine, "busybox");
    assert!(lines[1].starts_with(&whole[7..19]), "{table}");
    let ids = machine.cowl(["image", "history", "-q", "--no-trunc", "busybox"]).ok();
    assert_eq!(ids.lines().next(), Some(whole.as_str()));
    let size = machine.cowl(["history", "-H=false", "--format", "{{.Size}}", "busybox"]).ok();
    let size: u64 = size.lines().next().expect("a line").parse().expect("bytes");
    assert_eq!(machine.cowl(["inspect", "-f", "{{.Size}}", "busybox"]).ok(), format!("{size}\n"));
    machine.cowl(["history", "nobody"]).fails(1, "No such image: nobody");
}

fn prune_removes_what_nothing_uses(machine: &Machine) {
    let labels = serde_json::json!({ "keep": "" });
    load(machine, "moving", "old", &serde_json::json!({}));
    let old = id(machine, "moving");
    load(machine, "moving", "new", &serde_json::json!({}));
    load(machine, "kept", "k", &labels);
    // Not without being asked.
    let asked = machine.cowl_with_input(b"n\n", ["image", "prune"]).ok();
    assert!(asked.starts_with("WARNING! This will remove all dangling images."), "{asked}");
    assert!(asked.ends_with("Total reclaimed space: 0B\n"), "{asked}");
    let pruned = machine.cowl_with_input(b"y\n", ["image", "prune"]).ok();
    assert!(pruned.contains(&format!("deleted: {old}")), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: 3B"), "{pruned}");
    machine.cowl(["inspect", &old]).fails(1, "No such object");
    assert_eq!(machine.cowl(["image", "prune", "-f"]).ok(), "Total reclaimed space: 0B\n");

    machine.cowl(["run", "--name", "user", "busybox", "true"]).ok();
    let pruned = machine.cowl(["image", "prune", "-af", "--filter", "label!=keep"]).ok();
    assert!(pruned.contains("untagged: moving:latest"), "{pruned}");
    let mut left: Vec<String> = machine
        .cowl(["images", "--format", "{{.Repository}}"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    left.sort();
    assert_eq!(left, ["busybox", "kept"]);
    let until = machine.cowl(["image", "prune", "-af", "--filter", "until=nonsense"]);
    until.fails(1, "invalid filter 'until=[nonsense]'");
    machine.cowl(["rm", "user"]).ok();
}
