// Validates custom resources: a JSON list from the standard input; prints a line for each one that is invalid.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const packages = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
// The packages are in the folder that the argument names.
for (const manifest of JSON.parse(readFileSync(0))) {
  const name = packages[manifest.apiVersion];
  const [scope, base, ...rest] = name.split("/");
  const root = `${process.argv[2]}/${scope}/${base}`;
  const exported = JSON.parse(readFileSync(`${root}/package.json`)).exports[`./${rest.join("/")}`].import;
  const models = await import(pathToFileURL(`${root}/${exported.default ?? exported}`));
  try {
    new models[manifest.kind](manifest).validate();
  } catch (error) {
    console.log(`${manifest.kind}: ${error.message}`);
  }
}
