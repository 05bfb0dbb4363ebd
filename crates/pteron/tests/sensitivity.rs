//! `pteron sensitivity` on the bundled model.

mod support;

use support::{pteron, with_glass};

fn run(folder: &std::path::Path, more: &[&str]) -> support::Ran {
    let text = include_str!("../assets/glass-en/LICENSE");
    std::fs::write(folder.join("text.txt"), text).unwrap();
    let base = ["sensitivity", "glass-en", "--text", "text.txt", "--window", "48", "--windows", "2"];
    let args: Vec<&str> = base.iter().chain(more).copied().collect();
    pteron(folder, &args)
}

#[test]
fn layers_are_ranked_and_a_recipe_meets_the_divergence() {
    let folder = with_glass();
    let whole = run(folder.path(), &["-qmode", "4w", "-G", "32", "--json"]).json();
    let layers = whole["layers"].as_array().unwrap();
    // Groups of 32 do not divide the columns of the four down projections.
    assert_eq!(layers.len(), 4 * 6 + 1);
    let kl = |l: &serde_json::Value| l["kl"]["mean"].as_f64().unwrap();
    assert!(layers.windows(2).all(|w| kl(&w[0]) >= kl(&w[1])) && kl(&layers[0]) > 0.0);
    let up = layers.iter().find(|l| l["path"] == "model.layers.0.mlp.up_proj").unwrap();
    // 341 rows of 128 columns: a byte for four, and four scales a row.
    assert_eq!(up["bytes_saved"].as_i64().unwrap(), 341 * (128 * 3 - 4 * 4));
    let all = whole["whole"]["evaluation"]["divergence"]["kl"]["mean"].as_f64().unwrap();
    assert!(all > kl(&layers[0]));
    let most = (all * 0.5).to_string();
    let flags = ["-qmode", "4w", "-G", "32", "--max-kl", &most, "-o", "recipe.toml", "--report", "page.html"];
    let out = run(folder.path(), &flags).ok();
    assert!(out.contains("recipe found"), "{out}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("lm_head") && page.contains("</html>") && !page.contains("://"));
    // The recipe is read back, and does what was promised.
    let recipe = std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap();
    assert!(recipe.contains("keep-float = true") && recipe.contains("group-size = 32"), "{recipe}");
    let args = [
        "eval",
        "glass-en",
        "--reference",
        "glass-en",
        "--recipe",
        "recipe.toml",
        "--text",
        "text.txt",
        "--window",
        "48",
    ];
    let found = pteron(folder.path(), &[&args[..], &["--windows", "2", "--json"]].concat()).json();
    let kl = found["evaluation"]["divergence"]["kl"]["mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl <= all * 0.5, "{kl} of {all}");
}

#[test]
fn a_recipe_fits_a_size_or_it_is_said_why_not() {
    let folder = with_glass();
    let flags = ["-qmode", "int8", "--json"];
    let whole = run(folder.path(), &flags).json();
    let (least, float) = (whole["whole"]["bytes"].as_u64().unwrap(), whole["float_bytes"].as_u64().unwrap());
    assert!(least < float);
    let target = (least + 200_000).to_string();
    let found = run(folder.path(), &["-qmode", "int8", "--json", "--target-size", &target]).json();
    let (bytes, kept) = (found["found"]["bytes"].as_u64().unwrap(), found["found"]["kept_float"].as_array().unwrap());
    assert!(bytes <= least + 200_000 && !kept.is_empty(), "{bytes} {least}");
    let kl = |v: &serde_json::Value| v["evaluation"]["divergence"]["kl"]["mean"].as_f64().unwrap();
    assert!(kl(&found["found"]) <= kl(&found["whole"]));
    let target = (least - 1).to_string();
    let none = run(folder.path(), &["-qmode", "int8", "--target-size", &target]);
    assert!(none.fails(1).contains("with every layer quantized"));
    assert!(run(folder.path(), &["--max-kl", "0.1"]).fails(1).contains("nothing is quantized"));
    assert!(run(folder.path(), &["-qmode", "int8", "-o", "r.toml"]).fails(2).contains("--max-kl or --target-size"));
    let args = ["sensitivity", "glass-en", "--text", "text.txt", "-qmode", "int8", "--window", "100000"];
    let long = pteron(folder.path(), &args);
    assert!(long.fails(1).contains("less than one window"));
}
