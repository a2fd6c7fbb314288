use serde_json::{Value, json};

use super::*;

fn sample() -> Value {
    json!({
        "Id": "sha256:abc",
        "Name": "/web one",
        "Config": {
            "Env": ["PATH=/bin", "A=1"],
            "Cmd": null,
            "Labels": { "b": "2", "a.x": "1" },
            "Image": "alpine",
        },
        "State": { "Running": true, "ExitCode": 0, "Pid": 4242, "Error": "" },
        "Ports": { "80/tcp": [{ "HostPort": "8080" }], "90/tcp": null },
        "Ratio": 0.5,
        "Empty": [],
    })
}

fn render(template: &str) -> Result<String, TemplateError> {
    Template::parse(template)?.render(&sample())
}

#[track_caller]
fn gives(template: &str, expected: &str) {
    assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
}

#[track_caller]
fn fails(template: &str, sentence: &str) {
    let error = render(template).expect_err(template).to_string();
    assert_eq!(error, format!("template parsing error: template: :{sentence}"), "{template}");
}

#[test]
fn fields_and_values() {
    gives("plain", "plain");
    gives("{{.Id}} {{.ID}}", "sha256:abc sha256:abc");
    gives("{{.State.Running}}/{{.State.ExitCode}}/{{.State.Error}}/", "true/0//");
    gives("{{.Config.Env}}", "[PATH=/bin A=1]");
    gives("{{.Config.Labels}}", "map[a.x:1 b:2]");
    gives("{{.Config.Cmd}}", "[]");
    gives("{{.Ratio}}", "0.5");
    gives("{{.Config.Labels.missing}}", "<no value>");
    gives("{{$.Config.Image}}{{ $ := 1 }}", "alpine");
    gives("{{json .Config.Labels}}", r#"{"b":"2","a.x":"1"}"#);
    gives("{{json .Config.Cmd}} {{json .Empty}}", "null []");
    gives(
        "{{\"a\\tb\"}}{{`c\\t`}}{{'x'}} {{-1}} {{0x10}} {{1.5}} {{true}}",
        "a\tbc\\t120 -1 16 1.5 true",
    );
}

#[test]
fn blocks() {
    gives("{{if .State.Running}}up{{else}}down{{end}}", "up");
    gives("{{if .State.ExitCode}}bad{{else if .State.Error}}err{{else}}good{{end}}", "good");
    gives("{{range .Config.Env}}[{{.}}]{{end}}", "[PATH=/bin][A=1]");
    gives("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=PATH=/bin;1=A=1;");
    gives("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a.x:1 b:2 ");
    gives("{{range .Empty}}x{{else}}none{{end}}", "none");
    gives("{{range .Config.Env}}{{if eq . \"A=1\"}}{{break}}{{end}}{{.}}{{end}}", "PATH=/bin");
    gives("{{range .Config.Env}}{{if ne . \"A=1\"}}{{continue}}{{end}}{{.}}{{end}}", "A=1");
    gives("{{with .State}}{{.Pid}}{{$.Config.Image}}{{end}}", "4242alpine");
    gives("{{with .Config.Cmd}}x{{else}}no command{{end}}", "no command");
    gives("{{$n := 1}}{{if true}}{{$n = 2}}{{end}}{{$n}}", "2");
    gives("a {{- /* note */ -}} b {{- 3 -}} \n c", "ab3c");
    gives(
        "{{range $p, $c := .Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{break}}{{end}}",
        "80/tcp -> 8080",
    );
}

#[test]
fn functions_and_pipelines() {
    gives("{{index .Config.Env 1}}", "A=1");
    gives("{{index .Config.Labels \"a.x\"}}", "1");
    gives("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080");
    gives("{{len .Config.Env}} {{len .Name}} {{len .Config.Cmd}}", "2 8 0");
    gives("{{join .Config.Env \",\"}}", "PATH=/bin,A=1");
    gives("{{range split \"a:b\" \":\"}}<{{.}}>{{end}}", "<a><b>");
    gives("{{.Name | upper}} {{lower \"AB\"}} {{title .Name}}", "/WEB ONE ab /Web One");
    gives(
        "{{printf \"%-6s|%5d|%05d|%q|%v|%t|%.2f|%%\" \"ab\" 42 42 \"a\\n\" .Config.Env true .Ratio}}",
        "ab    |   42|00042|\"a\\n\"|[PATH=/bin A=1]|true|0.50|%",
    );
    gives("{{printf \"%d %s\" \"x\" 1}}", "%!d(string=x) %!s(int=1)");
    gives("{{printf \"%s\"}}{{printf \"a\" 1}}", "%!s(MISSING)a%!(EXTRA int=1)");
    gives("{{print 1 2 \"a\" 3}} {{println \"x\" 1}}", "1 2a3 x 1\n");
    gives("{{and 1 0}} {{and 1 2}} {{or 0 \"x\"}} {{not 0}}", "0 2 x true");
    // What is already decided is not evaluated.
    gives("{{or true .Nothing}} {{and false .Nothing}}", "true false");
    gives("{{eq 1 2 1}} {{ne \"a\" \"b\"}} {{lt 1 2}} {{ge \"b\" \"a\"}}", "true true true true");
    gives("{{if and .State.Running (eq .State.ExitCode 0)}}ok{{end}}", "ok");
    gives("{{.Config.Image | printf \"%s-%s\" \"x\" | upper}}", "X-ALPINE");
    gives("{{truncate .Name 4}}|{{pad \"x\" 1 2}}|{{slice .Name 1 4}}", "/web| x  |web");
    gives("{{html \"<a>\"}} {{urlquery \"a b&\"}}", "&lt;a&gt; a+b%26");
}

#[test]
fn labels_of_a_row() {
    let row = json!({ "ID": "1", "Labels": "a=1,b=x=y" });
    let render = |text: &str| Template::parse(text).unwrap().render(&row);
    assert_eq!(render("{{.Label \"b\"}}/{{.Label \"c\"}}").unwrap(), "x=y/");
    assert!(render("{{.ID \"b\"}}").is_err());
}

#[test]
fn mistakes_in_gos_words() {
    fails("{{.Foo}}", "1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"");
    fails("a\nb{{.Id.x}}", "2:3: executing \"\" at <.Id.x>: can't evaluate field x in type string");
    fails(
        "{{.Config.Cmd.x}}",
        "1:2: executing \"\" at <.Config.Cmd.x>: nil pointer evaluating interface {}.x",
    );
    fails("{{foo}}", "1: function \"foo\" not defined");
    fails("{{.Id", "1: unclosed action");
    fails("{{if .Id}}", "1: unexpected EOF");
    fails("{{end}}", "1: unexpected {{end}}");
    fails("\n{{$x}}", "2: undefined variable \"$x\"");
    fails("{{(.Id}}", "1: unclosed left paren");
    fails("{{.Id)}}", "1: unexpected right paren");
    fails("{{}}", "1: missing value for command");
    fails("{{.Id .Name}}", "1:2: executing \"\" at <.Id>: can't give argument to non-function .Id");
    fails(
        "{{index .Config.Env 5}}",
        "1:2: executing \"\" at <index .Config.Env 5>: error calling index: index out of range: 5",
    );
    fails(
        "{{upper 1}}",
        "1:2: executing \"\" at <upper 1>: wrong type for value; expected string; got int",
    );
    fails(
        "{{upper}}",
        "1:2: executing \"\" at <upper>: wrong number of args for upper: want 1 got 0",
    );
    fails(
        "{{range .Id}}{{end}}",
        "1:8: executing \"\" at <.Id>: range can't iterate over sha256:abc",
    );
    fails(
        "{{eq 1 \"a\"}}",
        "1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
    );
    fails("{{break}}", "1: {{break}} outside {{range}}");
    fails("{{template \"x\"}}", "1: \"template\" is not supported");
    fails("{{\"a}}", "1: unterminated quoted string");
    fails("{{.Id | 3}}", "1: non executable command in pipeline stage 2");
    fails("{{#}}", "1: unexpected '#' in command");
}

/// Neither broken nor deep templates may crash it.
#[test]
fn any_text_is_answered() {
    let pieces = [
        "{{", "}}", "{{-", "-}}", ".", ".A", "$", "$x", ":=", "=", "|", "(", ")", "\"", "`", "'",
        "range", "if", "else", "end", "with", "index", "0", "-", " ", ",", "é", "\\", "/*", "*/",
        "printf", "%d",
    ];
    let mut state = 12345_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        if let Err(error) = render(&text) {
            assert!(error.to_string().starts_with("template parsing error: "), "{text}");
        }
    }
    assert!(render(&"{{if 1}}".repeat(10_000)).is_err());
    assert!(render(&format!("{{{{{}", "(".repeat(10_000))).is_err());
}
