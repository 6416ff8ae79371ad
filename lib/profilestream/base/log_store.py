"""How Spark writes an entry of a Delta log in a local file system: never over an entry of another writer.

By default, Delta checks that the entry does not exist, and then renames a file to its name. This replaces an entry that
the driver or another process created in between, so the rows of that commit are lost. Here the entry is created by a
hard link, as in delta-rs and delta_log.py.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from profilestream.base.jvm import java_class

SETTING, CLASS = "spark.delta.logStore.file.impl", "profilestream.LinkingLogStore"

# On a file system without hard links, the entry is a new file too, but a reader can see a part of it.
_SOURCE = """
package profilestream;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.OpenOption;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.Iterator;
import java.util.UUID;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;

public class LinkingLogStore extends io.delta.storage.LocalLogStore {
  public LinkingLogStore(Configuration conf) {
    super(conf);
  }

  public void write(Path path, Iterator lines, Boolean overwrite, Configuration conf) throws IOException {
    if (overwrite.booleanValue()) {
      super.write(path, lines, overwrite, conf);
      return;
    }
    StringBuilder text = new StringBuilder();
    while (lines.hasNext()) text.append((String) lines.next()).append("\\n");
    byte[] bytes = text.toString().getBytes(StandardCharsets.UTF_8);
    java.nio.file.Path entry = Paths.get(path.toUri().getPath(), new String[0]);
    java.nio.file.Path written = entry.resolveSibling("." + UUID.randomUUID() + ".tmp");
    OpenOption[] isNew = {StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE};
    try {
      Files.write(written, bytes, isNew);
      link(entry, written, bytes, isNew);
    } finally {
      Files.deleteIfExists(written);
    }
  }

  private static void link(java.nio.file.Path entry, java.nio.file.Path written, byte[] bytes, OpenOption[] isNew)
      throws IOException {
    try {
      Files.createLink(entry, written);
    } catch (FileAlreadyExistsException e) {
      throw e;
    } catch (Exception e) {
      writeNew(entry, bytes, isNew);
    }
  }

  private static void writeNew(java.nio.file.Path entry, byte[] bytes, OpenOption[] isNew) throws IOException {
    try {
      Files.write(entry, bytes, isNew);
    } catch (FileAlreadyExistsException e) {
      throw e;
    } catch (IOException e) {
      Files.deleteIfExists(entry);
      throw e;
    }
  }
}
"""


def install(spark: SparkSession) -> None:
    """Compile the class in Java, if SETTING names it; Delta creates it when it opens the first table."""
    if spark.sparkContext.getConf().get(SETTING) != CLASS:
        return
    loader = java_class(spark, "java.lang.Thread").currentThread().getContextClassLoader()
    compiler = java_class(spark, "org.codehaus.janino.SimpleCompiler")()
    compiler.setParentClassLoader(loader)
    compiler.cook(_SOURCE)
    with TemporaryDirectory() as folder:
        file = Path(folder, *CLASS.split(".")).with_suffix(".class")
        file.parent.mkdir()
        file.write_bytes(bytes(compiler.getBytecodes()[CLASS]))
        loader.addURL(java_class(spark, "java.io.File")(folder).toURI().toURL())
        loader.loadClass(CLASS)
